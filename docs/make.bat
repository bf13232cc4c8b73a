@echo off
rem Sphinx's usual targets: "make html" builds _build\html. With .venv in the project, its Sphinx is taken.
pushd %~dp0
if "%SPHINXBUILD%" == "" if exist ..\.venv\Scripts\python.exe set SPHINXBUILD=..\.venv\Scripts\python.exe -m sphinx
if "%SPHINXBUILD%" == "" set SPHINXBUILD=sphinx-build
if "%1" == "" goto help
%SPHINXBUILD% -M %1 . _build %SPHINXOPTS%
goto end
:help
%SPHINXBUILD% -M help . _build %SPHINXOPTS%
:end
popd
