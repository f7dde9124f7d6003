# Finds a Python that is new enough and hands over to the bootstrap, which this file lies in.
# Usage: start.ps1 COMMAND ARGS...   $env:SHARDBOARD_PYTHON names a Python to try first.

# An environment made before starts fastest; when it does not serve any more, it hands over to its base.
# -E: PYTHONHOME, PYTHONPATH and their like are meant for other programs.
$candidates = @()
$candidates += , @((Join-Path $PSScriptRoot '..\.venv\Scripts\python.exe'))
$candidates += , @((Join-Path $PSScriptRoot '../.venv/bin/python'))
if ($env:SHARDBOARD_PYTHON) { $candidates += , @($env:SHARDBOARD_PYTHON) }
$candidates += , @('py', '-3')
$candidates += , @('python3')
$candidates += , @('python')

foreach ($candidate in $candidates) {
    $program = $candidate[0]
    $options = @($candidate | Select-Object -Skip 1)
    if (-not (Get-Command $program -ErrorAction SilentlyContinue)) { continue }
    & $program @options -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>$null
    if ($LASTEXITCODE -ne 0) { continue }
    & $program @options -E $PSScriptRoot @args
    exit $LASTEXITCODE
}

[Console]::Error.WriteLine('Shardboard needs Python 3.11 or newer, and none of py -3, python3, python is one.')
[Console]::Error.WriteLine("Install it from python.org or by 'winget install Python.Python.3.12',")
[Console]::Error.WriteLine('or name one: $env:SHARDBOARD_PYTHON = "C:\path\to\python.exe"')
exit 1
