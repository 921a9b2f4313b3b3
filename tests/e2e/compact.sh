#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd compact on disks that nobody has open: they become smaller and hold the same; with --fs by what deleted files left.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

PATH=$PATH:/usr/sbin:/sbin

# Blocks of zeros between blocks of data: those go, these stay.
bytes 30000000 > data
vhd create -s 200M d.vhd && vhd write d.vhd 0 < data && vhd write d.vhd 100M < data || fail 'create'
head -c 20M /dev/zero | vhd write d.vhd 4M || fail 'zeros'
vhd hash d.vhd > manifest
before=$(file_bytes d.vhd)
exits 0 vhd compact --json d.vhd
json_is file '"d.vhd"'
json_is online null
json_is before_bytes "$before"
json_is after_bytes "$(file_bytes d.vhd)"
json_is space_after_bytes "$(allocated_bytes d.vhd)"
json_is freed_blocks 10
[ "$(json_value moved_blocks)" -gt 0 ] || fail 'gaps are closed by moving'
[ "$(json_value space_before_bytes)" -gt "$(json_value space_after_bytes)" ] || fail "no space is gained: $(cat out)"
[ "$(file_bytes d.vhd)" -le $((before - (20 << 20))) ] || fail "$before bytes became $(file_bytes d.vhd)"
[ "$(json_value file_systems)" = '' ] || fail 'file systems are of --fs only'
exits 0 vhd verify d.vhd manifest
exits 0 vhd check d.vhd
exits 0 vhd compact d.vhd
says out '0 blocks given back, 0 moved'
says_nothing err

# A parent may be compacted: its children read the same. What a child covers its parent with stays, zeros too.
vhd create -b d.vhd child.vhd && head -c 6M /dev/zero | vhd write child.vhd 100M || fail 'child'
head -c 4M /dev/zero | vhd write child.vhd 150M || fail 'child'
vhd hash child.vhd > child.manifest
head -c 2M /dev/zero | vhd write --force d.vhd 198M || fail 'write'
exits 0 vhd compact d.vhd
says_nothing err
exits 0 vhd compact child.vhd
exits 0 vhd verify child.vhd child.manifest
exits 0 vhd check child.vhd

# Without a look at the zeros they stay.
vhd create -s 20M zeros.vhd && head -c 20M /dev/zero | vhd write zeros.vhd 0 || fail 'zeros'
exits 0 vhd compact --no-zeros --json zeros.vhd
json_is freed_blocks 0
exits 0 vhd compact zeros.vhd --json
json_is freed_blocks 10

# Interrupted, it says so, and goes on from there.
vhd create -s 100M slow.vhd && vhd write slow.vhd 0 < data && head -c 20M /dev/zero | vhd write slow.vhd 2M || fail 'slow'
vhd hash slow.vhd > slow.manifest
vhd compact --rate 2M slow.vhd > out 2> err &
pid=$!
sleep 0.7
kill -TERM $pid # a script's background jobs ignore SIGINT
wait $pid && fail 'an interrupted command succeeds'
says err 'interrupted'
exits 0 vhd verify slow.vhd slow.manifest
exits 0 vhd check slow.vhd
exits 0 vhd compact slow.vhd
exits 0 vhd verify slow.vhd slow.manifest

exits 1 vhd compact nowhere.vhd
says err 'nowhere.vhd'
exits 1 vhd compact data
exits 1 vhd compact --detach d.vhd
says err '--detach'
exits 2 vhd compact --fs --detach d.vhd
exits 2 vhd compact
nothing_hidden

# --- What file systems do not use ---

command -v vhd-fs-unused > /dev/null || skip 'all but --fs works; this build is without the helper (--disable-mount)'
needs mkfs.ext4 debugfs e2fsck
exits 0 vhd compact --fs zeros.vhd
says out '0 file systems'
says err 'note: '

# fs_compact NAME: NAME.raw becomes NAME.vhd, and that much smaller by --fs; then NAME.raw is what it holds.
fs_compact() {
	exits 0 vhd convert -f raw "$1.raw" "$1.vhd"
	exits 0 vhd compact --json "$1.vhd"
	[ "$(json_value freed_blocks)" -eq 0 ] || fail "$1: deleted files were zeros"
	plain=$(file_bytes "$1.vhd")
	exits 0 vhd compact --fs --json "$1.vhd"
	says_nothing err
	json_is file_systems 1
	json_is before_bytes "$plain"
	json_is after_bytes "$(file_bytes "$1.vhd")"
	[ "$(json_value fs_unused_bytes)" -gt $((20 << 20)) ] || fail "$1: unused: $(json_value fs_unused_bytes)"
	[ "$(file_bytes "$1.vhd")" -lt $((plain - (12 << 20))) ] || fail "$1: $plain bytes became $(file_bytes "$1.vhd")"
	exits 0 vhd check "$1.vhd"
	exits 0 vhd convert --force -O raw "$1.vhd" "$1.raw"
}

bytes 20000000 > gone
bytes 3000001 > stays
truncate -s 64M ext4.raw
mkfs.ext4 -q ext4.raw || fail 'mkfs.ext4'
printf 'write stays a\nwrite gone b\nwrite stays c\nrm b\n' > script
debugfs -w -f script ext4.raw > log 2>&1
fs_compact ext4
e2fsck -fn ext4.raw > log 2>&1 || fail "e2fsck: $(cat log)"
for file in a c; do
	debugfs -R "cat $file" ext4.raw 2> /dev/null | cmp - stays || fail "$file is harmed"
done
exits 0 vhd compact --fs ext4.vhd
says out '1 file system,'
says out '0 blocks given back, 0 moved'

# A disk that another stands on stays as it is.
vhd create -b ext4.vhd on-ext4.vhd || fail 'child'
sum=$(sha256sum ext4.vhd)
exits 1 vhd compact --fs ext4.vhd
says err 'without --fs'
[ "$sum" = "$(sha256sum ext4.vhd)" ] || fail 'refused, and the file has changed'
exits 0 vhd compact --fs on-ext4.vhd
exits 0 vhd compare ext4.vhd on-ext4.vhd

# One that is in use, too; readers do not keep the helper from it.
exits 0 vhd merge on-ext4.vhd
vhd read --progress=none ext4.vhd 0 64M 2> /dev/null | { sleep 1.5 && cat > /dev/null; } &
sleep 0.5
exits 1 vhd compact --fs ext4.vhd
says err 'fstrim'
wait
exits 1 vhd compact --fs nowhere.vhd

for program in mkntfs ntfscp ntfscat ntfsfix; do
	command -v $program > /dev/null || skip 'ext4 works; NTFS needs the programs of ntfs-3g'
done
truncate -s 64M ntfs.raw
mkntfs -F -q -f ntfs.raw > log 2>&1 || fail "mkntfs: $(cat log)"
ntfscp -q ntfs.raw stays a > log 2>&1 && ntfscp -q ntfs.raw gone b > log 2>&1 && ntfscp -q ntfs.raw stays c > log 2>&1 ||
	fail "ntfscp: $(cat log)"
truncate -s 0 empty
ntfscp -q ntfs.raw empty b > log 2>&1 || fail "ntfscp: $(cat log)"
exits 0 vhd convert -f raw ntfs.raw probe.vhd
vhd-fs-unused probe.vhd > out 2> err
grep -q 'left out of this build' err && skip 'ext4 works; this build is without libntfs-3g'
fs_compact ntfs
ntfsfix -n ntfs.raw > log 2>&1 || fail "ntfsfix: $(cat log)"
for file in a c; do
	ntfscat ntfs.raw $file | cmp - stays || fail "$file is harmed"
done
