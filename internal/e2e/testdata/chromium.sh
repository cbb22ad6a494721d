#!/usr/bin/env bash
# Installs the Debian package of Chromium, for the tests of the dashboard, if there is none.
set -euo pipefail

command -v chromium >/dev/null && exit 0
if ! command -v apt-get >/dev/null; then
	echo 'No chromium was found, and there is no apt-get to install it with: the tests of the dashboard are skipped.' >&2
	exit 0
fi
if [ "$(id -u)" = 0 ]; then
	as_root=(env)
elif sudo -n true 2>/dev/null; then
	as_root=(sudo env)
else
	echo 'No chromium was found, and installing it takes root: the tests of the dashboard are skipped.' >&2
	exit 0
fi
echo 'Installing Chromium for the tests of the dashboard ...' >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >&2
