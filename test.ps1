# All checks and tests; with arguments only pytest, which gets them.
& (Join-Path $PSScriptRoot 'bootstrap/start.ps1') test @args
exit $LASTEXITCODE
