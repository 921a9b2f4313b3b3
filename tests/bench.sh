#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# How fast: this engine and a raw file on the same file system through the same program, side by side, in one run;
# beside them QEMU's vpc driver against QEMU's raw. Prints a Markdown table. Times are the machine's: only ratios count.
#
# Environment: BENCH_DIR      where the disks lie (default: here); needs 12 GiB for all rows
#              BENCH_SECONDS  of each measurement (default 2)
#              BENCH_REPEAT   times each, ours and raw by turns; the median counts (default 5)
set -euo pipefail
export LC_ALL=C
seconds=${BENCH_SECONDS:-2}
repeat=${BENCH_REPEAT:-5}
place=$(cd "${BENCH_DIR:-.}" && pwd)
work=$(mktemp -d "$place/bench.XXXXXX")
memory=
trap 'rm -rf "$work" "$memory"' EXIT
trap 'exit 1' INT TERM
region=1G
requests=4000

command -v vhd > /dev/null || { echo 'bench: no vhd in PATH; run "make bench"' >&2; exit 1; }
notes=()

say() {
	printf '%s\n' "$*" >&2
}

# value KEY: of the JSON on standard input.
value() {
	tr -d ' \n' | sed -n "s/.*\"$1\":\([0-9.eE+-]*\).*/\1/p"
}

median() {
	sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

ratio() {
	awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.4f\n", a / b }'
}

per_request() {
	local json=$1
	ratio "$(value cpu_seconds <<< "$json")" "$(awk -v n="$(value requests <<< "$json")" 'BEGIN { print n / 1e6 }')"
}

# Set by measure: medians of IOPS, of their ratio, and of the ratio of CPU time per request.
ours=0 raw=0 share=0 cpu_share=0 cpu_ours=0

# measure OURS-PREPARE RAW-PREPARE OURS RAW BENCH-ARGUMENT...: OURS and RAW are arguments that name the file.
measure() {
	local prepare_ours=$1 prepare_raw=$2 file_ours=$3 file_raw=$4 i a b all_a='' all_b='' all_r='' all_c='' all_u=''
	shift 4
	for ((i = 0; i < repeat; i++)); do
		$prepare_ours
		a=$(vhd bench --json "$@" $file_ours)
		$prepare_raw
		b=$(vhd bench --json "$@" $file_raw)
		all_a+="$(value iops <<< "$a")"$'\n'
		all_b+="$(value iops <<< "$b")"$'\n'
		all_r+="$(ratio "$(value iops <<< "$a")" "$(value iops <<< "$b")")"$'\n'
		all_u+="$(per_request "$a")"$'\n'
		all_c+="$(ratio "$(per_request "$a")" "$(per_request "$b")")"$'\n'
	done
	ours=$(median <<< "${all_a%$'\n'}")
	raw=$(median <<< "${all_b%$'\n'}")
	share=$(median <<< "${all_r%$'\n'}")
	cpu_ours=$(median <<< "${all_u%$'\n'}")
	cpu_share=$(median <<< "${all_c%$'\n'}")
}

# qemu PREPARE-VPC PREPARE-RAW VPC RAW ARGUMENT...: QEMU's vpc against QEMU's raw, or why not.
qemu() {
	local prepare_vpc=$1 prepare_raw=$2 vpc=$3 raw=$4 i a b all=''
	shift 4
	if ! command -v qemu-img > /dev/null; then
		echo 'not installed'
		return
	fi
	for ((i = 0; i < 3; i++)); do
		$prepare_vpc
		a=$(qemu_seconds vpc "$vpc" "$@") || { echo 'failed'; return; }
		$prepare_raw
		b=$(qemu_seconds raw "$raw" "$@") || { echo 'failed'; return; }
		all+="$(ratio "$b" "$a")"$'\n'
	done
	median <<< "${all%$'\n'}" | awk '{ printf "%.2f\n", $1 }'
}

qemu_seconds() {
	local format=$1 file=$2
	shift 2
	qemu-img bench -f "$format" -t "$cache" -d 32 "$@" "$file" | sed -n 's/^Run completed in \([0-9.]*\) seconds.*/\1/p' | grep .
}

verdict() { # VALUE least|most GOAL
	awk -v v="$1" -v how="$2" -v g="$3" 'BEGIN { print (how == "least" ? v >= g : v <= g) ? "met" : "**missed**" }'
}

row() { # WORK PLACE QEMU GOAL
	printf '| %s | %s | %.0f | %.0f | %.2f | %.2f | %s | %s |\n' "$1" "$2" "$ours" "$raw" "$share" "$4" \
		"$(verdict "$share" least "$4")" "$3"
}

cpu_row() { # WORK PLACE
	printf '| CPU time per request: %s | %s | %.2f us | | %.2f | at most 1.25 | %s | |\n' "$1" "$2" "$cpu_ours" \
		"$cpu_share" "$(verdict "$cpu_share" most 1.25)"
}

free_gib() {
	df -P --block-size=1G "$1" | awk 'NR == 2 { print $4 }'
}

# allocated_disks FOLDER: ours and raw, both written all over.
allocated_disks() {
	vhd create -s "$region" "$1/full.vhd"
	truncate -s "$region" "$1/full.raw"
	vhd bench --op write --bs 1M --depth 4 --count 1024 --json "$1/full.vhd" > /dev/null
	vhd bench -f raw --op write --bs 1M --depth 4 --count 1024 --json "$1/full.raw" > /dev/null
	sync "$1/full.vhd" "$1/full.raw"
}

fresh_vhd() { rm -f "$work/fresh.vhd"; vhd create -s 8G "$work/fresh.vhd"; }
fresh_raw() { rm -f "$work/fresh.raw"; truncate -s 8G "$work/fresh.raw"; }
fresh_vpc() { rm -f "$work/fresh.vpc"; qemu-img create -q -f vpc "$work/fresh.vpc" 8G; }

# Blocks of 2 MiB: the first touch of each, 4,000 times.
hop=$(((2 << 20) + 4096))

direct=--direct
cache=none
truncate -s 1M "$work/probe"
if ! vhd bench -f raw --op read --bs 4K --depth 1 --count 1 --direct --json "$work/probe" > /dev/null 2>&1; then
	direct=''
	cache=writeback
	notes+=("O_DIRECT is not possible on $place, so this ran through the page cache.")
fi

say "bench: disks in $work, $repeat x $seconds s each"
allocated_disks "$work"
if command -v qemu-img > /dev/null; then
	qemu-img convert -q -f raw -O vpc -S 0 "$work/full.raw" "$work/full.vpc"
else
	notes+=('qemu-img is not installed (Debian, Ubuntu: qemu-utils): no figures for QEMU.')
fi

kind=$(stat -f -c %T "$work")
printf '%s, kernel %s, %s processors, %s%s; depth 32; medians of %s.\n\n' "$(vhd --version | head -n 1)" "$(uname -r)" \
	"$(nproc)" "$kind" "${direct:+, O_DIRECT}" "$repeat"
echo '| Work | On | vhd, IOPS | raw, IOPS | share of raw | goal | | QEMU: vpc, share of raw |'
echo '|---|---|---:|---:|---:|---:|---|---:|'

timed="--depth 32 --runtime $seconds $direct"
counted="--depth 32 $direct"
# QEMU has no random offsets: a stride that is no power of two hops all over.
scattered=1028096

measure : : "$work/full.vhd" "-f raw $work/full.raw" --op randread --bs 4K $timed
row '4 KiB random read, allocated' "$kind" "$(qemu : : "$work/full.vpc" "$work/full.raw" -s 4096 -S $scattered -c 20000)" 0.95
cpu_row '4 KiB random read' "$kind"
measure : : "$work/full.vhd" "-f raw $work/full.raw" --op randwrite --bs 4K $timed
row '4 KiB random write, allocated' "$kind" "$(qemu : : "$work/full.vpc" "$work/full.raw" -w -s 4096 -S $scattered -c 20000)" 0.95
cpu_row '4 KiB random write' "$kind"
measure : : "$work/full.vhd" "-f raw $work/full.raw" --op write --bs 4K --stride $hop $timed
row '4 KiB writes hopping blocks, allocated' "$kind" "$(qemu : : "$work/full.vpc" "$work/full.raw" -w -s 4096 -S $hop -c 4000)" 0.95

if [ "$(free_gib "$work")" -ge 10 ]; then
	measure fresh_vhd fresh_raw "$work/fresh.vhd" "-f raw $work/fresh.raw" --op write --bs 4K --stride 2M \
		--count $requests --flush-every $requests $counted
	row "first touch: $requests x 4 KiB, one a block" "$kind" "$(qemu fresh_vpc fresh_raw "$work/fresh.vpc" "$work/fresh.raw" \
		-w -s 4096 -S 2097152 -c $requests)" 0.7
else
	notes+=("Left out: first touch, as $place has less than 10 GiB free.")
fi
measure fresh_vhd fresh_raw "$work/fresh.vhd" "-f raw $work/fresh.raw" --op write --bs 64K --count 8192 \
	--flush-every 8192 $counted
row 'sequential 64 KiB first write' "$kind" "$(qemu fresh_vpc fresh_raw "$work/fresh.vpc" "$work/fresh.raw" -w -s 65536 -c 8192)" 0.9
rm -f "$work"/fresh.*

# 32 layers: every one holds 8 MiB of its own, and the last has what the flat disk has.
chain_size=256
vhd create -s ${chain_size}M "$work/layer-0.vhd"
vhd bench --op write --bs 1M --depth 4 --count $chain_size --json "$work/layer-0.vhd" > /dev/null
for ((i = 1; i < 32; i++)); do
	vhd create -b "$work/layer-$((i - 1)).vhd" "$work/layer-$i.vhd"
	head -c $((8 << 20)) /dev/urandom | vhd write "$work/layer-$i.vhd" $(((i * 8) << 20))
done
vhd convert -O dynamic "$work/layer-31.vhd" "$work/flat.vhd"
measure : : "$work/layer-31.vhd" "$work/flat.vhd" --op randread --bs 4K $timed
printf '| 4 KiB random read through 32 layers, against 1 | %s | %.0f | %.0f (1 layer) | %.2f | 0.90 | %s | cannot |\n' "$kind" \
	"$ours" "$raw" "$share" "$(verdict "$share" least 0.9)"
rm -f "$work"/layer-* "$work/flat.vhd"

if [ -d /dev/shm ] && [ -w /dev/shm ] && [ "$(free_gib /dev/shm)" -ge 3 ]; then
	memory=$(mktemp -d /dev/shm/bench.XXXXXX)
	allocated_disks "$memory"
	for op in randread randwrite; do
		measure : : "$memory/full.vhd" "-f raw $memory/full.raw" --op $op --bs 4K --depth 32 --runtime "$seconds"
		row "4 KiB ${op#rand}, random, allocated" 'tmpfs, no disk' '' 0.95
		cpu_row "4 KiB random ${op#rand}" 'tmpfs, no disk'
	done
else
	notes+=('Left out: tmpfs, as /dev/shm has less than 3 GiB free.')
fi

# Opening. The time is a whole `vhd info`, start of the program included; the memory is the most that a program which
# has the disk open ever held.
vhd create -s 2040G "$work/largest.vhd"
open_ms=$(for ((i = 0; i < 20; i++)); do
	start=$(date +%s%N)
	vhd info "$work/largest.vhd" > /dev/null
	echo $((($(date +%s%N) - start) / 1000))
done | median | awk '{ printf "%.1f", $1 / 1000 }')
vhd bench --op read --bs 4K --depth 1 --runtime 1 --json "$work/largest.vhd" > /dev/null &
sleep 0.5
resident_mib=$(awk '/^VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$!/status")
wait $!
printf '| open a 2040 GiB dynamic disk | %s | %s ms | | | under 10 ms | %s | |\n' "$kind" "$open_ms" "$(verdict "$open_ms" most 10)"
printf '| resident memory with it open | %s | %s MiB | | | under 16 MiB | %s | |\n' "$kind" "$resident_mib" \
	"$(verdict "$resident_mib" most 16)"

echo
for note in ${notes[@]+"${notes[@]}"}; do
	echo "- $note"
done
