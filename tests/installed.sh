#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Uses what `make install DESTDIR=ROOT` put there as a stranger would. Usage: installed.sh ROOT BUILD-FOLDER
set -eu
root=$1
build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pc=$(find "$root" -name libvhd.pc)
libdir=$(dirname "$(dirname "$pc")")
prefix=$(sed -n 's/^prefix=//p' "$pc")
cat > "$work/use.c" <<'END'
#include <stdio.h>
#include <string.h>
#include <vhd.h>

int main(int argc, char **argv)
{
	const struct vhd_create_options options = {.size_bytes = 64 << 20};
	char text[] = "here to stay", back[sizeof text];
	struct blk_queue *queue;
	struct err err;
	struct vhd *vhd;

	if (argc != 2 || vhd_create(argv[1], &options, &err) ||
	    vhd_open(argv[1], &(struct vhd_open_options){.flags = VHD_OPEN_WRITE}, &vhd, &err) ||
	    blk_queue_new(vhd_blk(vhd), NULL, &queue, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	if (blk_pwrite(queue, text, sizeof text, 4096) || blk_pread(queue, back, sizeof back, 4096))
		return 2;
	blk_queue_free(queue);
	if (vhd_close(vhd, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	return memcmp(text, back, sizeof text) ? 3 : 0;
}
END
# The .pc names the final place; what lies under ROOT is found through the sysroot.
export PKG_CONFIG_PATH=${pc%/*}
flags() {
	pkg-config "$@" libvhd | sed "s|-\([IL]\)$prefix|-\1$root$prefix|g"
}

cc=${CC:-cc}
$cc -o "$work/shared" "$work/use.c" $(flags --cflags --libs)
LD_LIBRARY_PATH=$libdir "$work/shared" "$work/shared.vhd"
ldd "$work/shared" | grep 'libvhd\.so' > /dev/null ||
	LD_LIBRARY_PATH=$libdir ldd "$work/shared" | grep 'libvhd\.so'
echo 'shared: works'

$cc -o "$work/static" "$work/use.c" $(flags --cflags) "$libdir/libvhd.a" $(flags --static --libs | sed 's/-lvhd//')
"$work/static" "$work/static.vhd"
if readelf -d "$work/static" | grep libvhd; then exit 1; fi
echo 'static: works'

echo '#include <vhd.h>' > "$work/use.cc"
if command -v c++ > /dev/null; then
	c++ -fsyntax-only $(flags --cflags) "$work/use.cc"
	echo 'C++: takes the header'
fi

"$root$prefix/bin/vhd" --version
for page in vhd.1 vhd-mount.1 vhd-umount.1 libvhd.3; do
	[ "${page#vhd-}" != "$page" ] && [ ! -e "$build/mountd/vhd-mount" ] && continue
	find "$root$prefix" -name "$page*" | grep . || { echo "no man page $page" >&2; exit 1; }
done
