#!/bin/sh
# Makes an image like debian:bookworm-slim of Debian's packages: usage: base.sh NAME FOLDER. FOLDER is used, and removed.
set -eu
name=$1
root=$2
mirror=http://deb.debian.org

rm -rf "$root"
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" "$mirror/debian" >"$root.log" 2>&1 || { cat "$root.log" >&2; exit 1; }

cat >"$root/etc/apt/sources.list" <<END
deb $mirror/debian bookworm main
deb $mirror/debian bookworm-updates main
deb $mirror/debian-security bookworm-security main
END
# As the official image has it: packages leave neither caches nor what people read.
cat >"$root/etc/apt/apt.conf.d/docker-clean" <<'END'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
END
unread=
for folder in doc info locale man; do
    echo "path-exclude /usr/share/$folder/*" >>"$root/etc/dpkg/dpkg.cfg.d/slim"
    unread="$unread $root/usr/share/$folder"
done
# shellcheck disable=SC2086 # several words
find $unread "$root/var/cache/apt" "$root/var/lib/apt/lists" -mindepth 1 -delete

container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >/dev/null
buildah commit --quiet --rm "$container" "$name" >/dev/null
