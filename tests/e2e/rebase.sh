#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd rebase: another parent, the same content; killed at any moment, too. A chain that is moved as a whole still opens.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1
SIZE=$((16 << 20))

# noise SEED LENGTH: bytes that differ from seed to seed.
noise() {
	seq "$1"0000000 "$1"9999999 2> /dev/null | head -c "$2"
}

content_is() {
	rm -f now.raw
	vhd convert --progress=none -O raw "$1" now.raw || fail "$1 cannot be read"
	same_bytes now.raw "$2"
	exits 0 vhd check --progress=none "$1"
}

parent_is() {
	exits 0 vhd info --json "$1"
	says out "\"path\": \"$PWD/$2\""
}

# Both bases hold data where the other has none, the same in places, and other data in others.
for i in 1 2; do
	vhd create -s $SIZE base$i.vhd || fail "create base$i.vhd"
	noise $i 1000000 | vhd write --progress=none base$i.vhd $((i * 3000000 + 512)) || fail "write base$i.vhd"
	noise $i 100000 | vhd write --progress=none base$i.vhd 10000000
	noise 3 2000000 | vhd write --progress=none base$i.vhd 13000000
done
vhd create -b base1.vhd first.vhd || fail 'create first.vhd'
noise 4 700 | vhd write --progress=none first.vhd 100
noise 5 700000 | vhd write --progress=none first.vhd 3300000
noise 6 1000 | vhd write --progress=none first.vhd 13000192
vhd convert --progress=none -O raw first.vhd before.raw || fail 'convert'
cp first.vhd child.vhd

# Safely: what differs is copied, and no more.
exits 0 vhd rebase --json --progress=none --parent base2.vhd child.vhd
copied=$(json_value copied_bytes)
[ "$copied" -gt 1300000 ] && [ "$copied" -lt 1600000 ] || fail "copied $copied bytes"
says out '"parent": "base2.vhd"'
parent_is child.vhd base2.vhd
content_is child.vhd before.raw
exits 0 vhd rebase --json --progress=none -b base2.vhd child.vhd
json_is copied_bytes 0
exits 0 vhd rebase --progress=json -b base1.vhd child.vhd
says err '"total": '$SIZE
says out 'child.vhd: stands on base1.vhd'
content_is child.vhd before.raw

# Onto a parent of another size, and onto a grandparent or grandchild of the old one.
vhd create -s $((SIZE / 2)) small.vhd && vhd create -b base2.vhd middle.vhd || fail create
noise 7 50000 | vhd write --progress=none middle.vhd 1000000
for parent in small.vhd middle.vhd base1.vhd; do
	exits 0 vhd rebase --progress=none -b $parent child.vhd
	content_is child.vhd before.raw
done

# A raw disk, and back.
vhd convert --progress=none -O raw base2.vhd base2.raw || fail convert
exits 0 vhd rebase --progress=none -b base2.raw --parent-raw child.vhd
content_is child.vhd before.raw
exits 0 vhd rebase --progress=none -b base1.vhd child.vhd
content_is child.vhd before.raw

# None: it stands alone; other programs, that do not look at sector bitmaps, read the same.
cp first.vhd alone.vhd
vhd create -b alone.vhd grandchild.vhd || fail create
exits 0 vhd rebase --json --progress=none --parent none alone.vhd
says out '"parent": null'
mkdir away && mv base1.vhd away/
exits 0 vhd info --json alone.vhd
json_is type '"dynamic"'
content_is alone.vhd before.raw
content_is grandchild.vhd before.raw
rm grandchild.vhd
if command -v qemu-img > /dev/null; then
	qemu-img convert -f vpc -O raw alone.vhd theirs.raw || fail 'qemu-img'
	same_bytes theirs.raw before.raw
fi

# The parent was moved: the same disk by its Unique Id, so nothing else needs to be there.
cp first.vhd child.vhd
exits 1 vhd rebase --progress=none -b base2.vhd child.vhd
says err '--unsafe'
exits 0 vhd rebase --json --progress=none -b away/base1.vhd child.vhd
json_is copied_bytes 0
parent_is child.vhd away/base1.vhd
content_is child.vhd before.raw
cp first.vhd child.vhd
exits 0 vhd rebase --unsafe -b away/base1.vhd child.vhd
says_nothing err
content_is child.vhd before.raw
mv away/base1.vhd . && rmdir away

# Unsafely: the linkage alone, with a warning where the content may change.
cp first.vhd child.vhd
exits 1 vhd rebase --unsafe -b small.vhd child.vhd
says err '--force'
exits 0 vhd rebase --unsafe -b base2.vhd child.vhd
says err 'what the disk reads may have changed'
parent_is child.vhd base2.vhd
exits 0 vhd rebase --unsafe -b base1.vhd child.vhd
content_is child.vhd before.raw
vhd create -b child.vhd onchild.vhd || fail create
exits 1 vhd rebase --unsafe -b base2.vhd child.vhd
says err 'onchild.vhd'
exits 0 vhd rebase --progress=none -b base2.vhd child.vhd
content_is onchild.vhd before.raw

# What cannot be.
for how in '' --unsafe; do
	exits 1 vhd rebase $how -b child.vhd child.vhd
	says err 'its own parent'
	exits 1 vhd rebase $how -b onchild.vhd child.vhd
	says err 'among the parents'
	exits 1 vhd rebase $how -b base1.vhd base2.vhd
	exits 1 vhd rebase $how -b missing.vhd child.vhd
done
content_is child.vhd before.raw
rm onchild.vhd
exits 2 vhd rebase child.vhd
exits 2 vhd rebase --unsafe -b none child.vhd
exits 2 vhd rebase --parent-raw -b none child.vhd
exits 2 vhd rebase --force -b base1.vhd child.vhd

# A chain moved as a whole opens: relative locators come first, even where the old place holds another such file.
mkdir -p here/bases && cp base1.vhd here/bases/ && (cd here && vhd create -b bases/base1.vhd top.vhd) || fail create
cp first.vhd here/ && (cd here && vhd rebase --unsafe -b bases/base1.vhd first.vhd) || fail rebase
mv here there && mkdir -p here/bases && vhd create -s $SIZE here/bases/base1.vhd
for name in top first; do
	exits 0 vhd info --json there/$name.vhd
	says out "\"path\": \"$PWD/there/bases/base1.vhd\""
done
content_is there/first.vhd before.raw

# Killed at any moment it reads the same, and the same again finishes; so with a signal that asks it to end.
for signal in KILL KILL KILL KILL INT TERM; do
	cp first.vhd child.vhd
	vhd rebase --progress=none -b base2.vhd child.vhd 2> /dev/null &
	pid=$!
	sleep 0.0$((RANDOM % 8))$((RANDOM % 10))
	kill -$signal $pid 2> /dev/null
	wait $pid
	content_is child.vhd before.raw
	exits 0 vhd rebase --progress=none -b base2.vhd child.vhd
	parent_is child.vhd base2.vhd
	content_is child.vhd before.raw
done
