"""The Nodes screen: a table of all nodes, their figures as graphs, and the dialogs that bring nodes in."""
