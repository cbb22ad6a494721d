#!/usr/bin/env bash
# Installs the Debian package of Postgres if nothing is there that pgcluster could start. See doc.go for where it looks.
set -euo pipefail

here() {
	[ -n "${OUTFLOW_TEST_PG_URL:-}" ] || [ -n "${OUTFLOW_TEST_PG_BIN:-}" ] && return
	command -v postgres >/dev/null && return
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && return
	compgen -G '/var/cache/outflow/postgres/*/bin/postgres' >/dev/null && return
	compgen -G "${XDG_CACHE_HOME:-${HOME:-/}/.cache}/outflow/postgres/*/bin/postgres" >/dev/null && return
	command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1
}

refuse() {
	echo "No Postgres server was found, and $1." >&2
	echo "Install one (Debian: apt-get install postgresql), or set OUTFLOW_TEST_PG_BIN to the directory of its binaries," >&2
	echo "or OUTFLOW_TEST_PG_URL to a superuser's URL, or start Docker." >&2
	exit 1
}

here && exit 0
command -v apt-get >/dev/null || refuse 'there is no apt-get to install it with'
if [ "$(id -u)" = 0 ]; then
	as_root=(env)
elif sudo -n true 2>/dev/null; then
	as_root=(sudo env)
else
	refuse 'installing it takes root or sudo without a password'
fi

echo 'Installing PostgreSQL for the tests ...' >&2
"${as_root[@]}" apt-get update -qq
# Only the binaries are wanted: the package's own cluster would run for nothing.
"${as_root[@]}" mkdir -p /etc/postgresql-common
if ! [ -e /etc/postgresql-common/createcluster.conf ]; then
	echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2
here || refuse 'the package postgresql did not bring one'
