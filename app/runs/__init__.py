"""What happened: the traces of requests, deployments and jobs, what they mean, and how they leave the program."""
