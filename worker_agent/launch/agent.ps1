# A Shardboard agent on this machine: makes an environment with just what an agent needs, then runs it.
#
#   worker_agent\launch\agent.ps1 --listen 192.168.1.20:7600 ...    all arguments go to `python -m worker_agent`
#   worker_agent\launch\agent.ps1 --wait                          waits to be found by a controller on this network
#   worker_agent\launch\agent.ps1 --join INVITATION --install-service   joins, now and whenever you log in
#   worker_agent\launch\agent.ps1 prepare                         only make the environment, and print its Python
#
# Either within the repository, or copied together with the folder `bootstrap` and the wheel
# (shardboard-*.whl) into one folder.
$places = @((Join-Path $PSScriptRoot 'bootstrap/start.ps1'), (Join-Path $PSScriptRoot '../../bootstrap/start.ps1'))
foreach ($start in $places) {
    if (-not (Test-Path $start)) { continue }
    if ($args.Count -gt 0 -and $args[0] -eq 'prepare') {
        & $start prepare-agent
    } else {
        & $start agent @args
    }
    exit $LASTEXITCODE
}
[Console]::Error.WriteLine("There is no folder 'bootstrap' beside agent.ps1 or at the top of its repository; copy it from Shardboard.")
exit 1
