#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd bench: the keys that make bench and others read, on a VHD and on a raw file.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

exits 0 vhd create -s 64M a.vhd
truncate -s 64M r.raw
for op in write read randwrite randread; do
	exits 0 vhd bench --op $op --bs 4K --depth 8 --count 500 --json a.vhd
	json_is op "\"$op\""
	json_is bs 4096
	json_is depth 8
	json_is requests 500
	for key in seconds iops bytes_per_second cpu_seconds; do
		json_value $key | grep -qE '^[0-9]+\.[0-9]+$' || fail "$key is no number in: $(cat out)"
	done
	json_value latency_us | grep -qE '^\{"p50": [0-9.]+, "p99": [0-9.]+, "max": [0-9.]+\}$' || fail latency_us
	exits 0 vhd bench -f raw --op $op --count 500 --threads 2 --json r.raw
	json_is requests 500
	json_is format '"raw"'
done
exits 0 vhd check a.vhd

# One request every 2 MiB + 4 KiB touches one block each.
exits 0 vhd create --force -s 64M a.vhd
exits 0 vhd bench --op write --bs 4K --stride 2052K --count 16 a.vhd
exits 0 vhd info --json a.vhd
json_is allocated_blocks 16
exits 0 vhd bench --op write --bs 64K --size 4M --count 200 --flush-every 50 --json a.vhd
json_is flushes 4
exits 0 vhd info --json a.vhd
json_is allocated_blocks 16
exits 0 vhd bench --op randread --runtime 0.2 a.vhd
says out 'requests in'

exits 1 vhd bench --op read --bs 1000 --count 1 a.vhd
exits 1 vhd bench --op read --size 65M --count 1 a.vhd
exits 2 vhd bench --op read a.vhd
exits 2 vhd bench --count 1 a.vhd
exits 2 vhd bench --op scan --count 1 a.vhd
exits 2 vhd bench --op randread --stride 8K --count 1 a.vhd
