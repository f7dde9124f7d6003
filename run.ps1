# Shardboard: makes its environment where needed and runs `main.py ARGS...` in it.
& (Join-Path $PSScriptRoot 'bootstrap/start.ps1') run @args
exit $LASTEXITCODE
