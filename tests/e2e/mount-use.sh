#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What people do: copy in and out, fill the disk, keep a deleted file open, mount read-only, mount twice, plain
# unmounts and signals.
. "$VHDKIT_SRCDIR/tests/e2e/mount-lib.sh" || exit 1

image d.vhd 200M gpt mkfs.ext4 -q
bytes 20000000 > h/big
exits 0 vhd-mount d.vhd m
says_nothing err
cp h/big m/big && mkdir m/sub && cp -a "$VHDKIT_SRCDIR/tests/e2e" m/sub/ || fail 'cannot copy in'
same_bytes h/big m/big
# In use: named, for writers and readers alike.
mkdir m2
exits 1 vhd-mount d.vhd m2
says err 'd.vhd'
exits 1 vhd-mount -r d.vhd m2
exec 5< m/big
exits 1 vhd-umount m
says err 'in use'
exec 5<&-
exits 0 vhd-umount m
sound d.vhd
exits 1 vhd-umount m
says err 'vhd-mount'

# Read-only: everything is there, nothing can be changed, not a byte of the image does.
before=$(sha256sum < d.vhd)
exits 0 vhd-mount -r d.vhd m
same_bytes h/big m/big
diff -r "$VHDKIT_SRCDIR/tests/e2e" m/sub/e2e || fail 'a copied tree differs'
! touch m/new 2> err || fail 'touch works on a read-only mount'
says err 'Read-only'
exits 0 vhd-mount -r d.vhd m2
exits 0 vhd-umount m2
exits 0 vhd-umount m
[ "$before" = "$(sha256sum < d.vhd)" ] || fail 'a read-only mount changed the image'

# A deleted file lives while it is open, and its space comes back.
exits 0 vhd-mount d.vhd m
free=$(stat -f -c %f m)
exec 5<> m/big
rm m/big
cmp h/big <(cat <&5) || fail 'a deleted open file cannot be read'
exec 5>&-
for _ in 1 2 3 4 5 6 7 8 9 10; do
	[ "$(stat -f -c %f m)" -gt "$((free + 4000))" ] && break
	sleep 0.2
done
[ "$(stat -f -c %f m)" -gt "$((free + 4000))" ] || fail 'the space of a deleted file is not free'

# Full: an error, nothing broken, and it works again with room.
! dd if=/dev/zero of=m/fill bs=1M 2> err || fail 'the disk never gets full'
says err 'No space left'
rm m/fill
cp h/big m/again || fail 'cannot copy after the disk was full'
same_bytes h/big m/again
exits 0 vhd-umount m
sound d.vhd

# A plain unmount is as safe; the image is locked until the end.
exits 0 vhd-mount d.vhd m
cp h/big m/third
fusermount3 -u m || fail fusermount3
for _ in $(seq 50); do
	vhd-mount -r d.vhd m 2> err && break
	sleep 0.1
done
same_bytes h/big m/third
exits 0 vhd-umount m
sound d.vhd

# So is SIGTERM.
vhd-mount -f d.vhd m &
pid=$!
for _ in $(seq 100); do
	[ -e m/third ] && break
	sleep 0.1
done
cp h/big m/fourth || fail 'cp before SIGTERM'
kill -TERM $pid
wait $pid || fail "SIGTERM: exit status $?"
[ ! -e m/fourth ] || fail 'still mounted after SIGTERM'
sound d.vhd
exits 0 vhd-mount -r d.vhd m
same_bytes h/big m/fourth
exits 0 vhd-umount m

# A file that its owner writes to loses its set-user-ID bit.
if [ "$(id -u)" -eq 0 ] && command -v setpriv > /dev/null; then
	chmod 755 .
	exits 0 vhd-mount -o allow_other d.vhd m
	echo x > m/program && chown 65534 m/program && chmod 6755 m/program || fail 'cannot make a program'
	setpriv --reuid 65534 --clear-groups sh -c 'echo x >> m/program' || fail 'its owner cannot write'
	[ "$(stat -c %a m/program)" = 755 ] || fail 'a set-user-ID bit outlives a write'
	exits 0 vhd-umount m
	sound d.vhd
else
	echo 'not tested: set-user-ID bits, which needs root and setpriv' >&2
fi

# With nothing open but itself, it takes no image for its standard output.
vhd-mount d.vhd m <&- >&- 2>&- || fail 'not with standard input, output and error closed'
same_bytes h/big m/fourth
echo later > m/later || fail 'cannot write'
exits 0 vhd-umount m
sound d.vhd
