#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# How fast: this engine and a raw file on the same file system through the same program, side by side, in one run;
# beside them QEMU's vpc driver against QEMU's raw. Prints a Markdown table. Times are the machine's: only ratios count.
#
# Environment: BENCH_DIR      where the disks lie (default: here); needs 12 GiB for all rows
#              BENCH_SECONDS  of each measurement (default 2)
#              BENCH_REPEAT   times each, ours and raw by turns; the median counts (default 5)
#              BENCH_MIB      of the disk under load, and half of what is merged beside cp (default 512)
#              BENCH_ONLY     "io" or "upkeep": only that table
set -euo pipefail
export LC_ALL=C
seconds=${BENCH_SECONDS:-2}
repeat=${BENCH_REPEAT:-5}
only=${BENCH_ONLY:-}
mib=${BENCH_MIB:-512}
place=$(cd "${BENCH_DIR:-.}" && pwd)
work=$(mktemp -d "$place/bench.XXXXXX")
memory=
trap 'rm -rf "$work" "$memory"' EXIT
trap 'exit 1' INT TERM
region=1G
requests=4000

command -v vhd > /dev/null && command -v bench-upkeep > /dev/null || { echo 'bench: no vhd in PATH; run "make bench"' >&2; exit 1; }
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

io_table() {
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

}

# number KEY: of the lines "key value" that bench-upkeep wrote.
number() {
	awk -v key="$1" '$1 == key { print $2 }' "$memo"
}

upkeep_row() { # WORK PLACE OURS BESIDE GOAL-TEXT VERDICT
	printf '| %s | %s | %s | %s | %s | %s |\n' "$@"
}

# latency_row WORK PLACE KEY GOAL-MS: the longest of KEY, beside that while nothing goes on and on a raw file. Without a
# goal the row only informs.
latency_row() {
	local worst idle=nothing_${3##*_} raw=raw_${3##*_} goal=${4:-} judged=''
	worst=$(number "$3_max_ms")
	[ -z "$goal" ] || judged=$(verdict "$worst" most "$goal")
	upkeep_row "$1" "$2" "$worst ms (99.9 %: $(number "$3_p999_ms"), median $(number "$3_p50_ms"))" \
		"no upkeep $(number "${idle}_max_ms") ms ($(number "${idle}_p999_ms"), $(number "${idle}_p50_ms")); raw file $(number \
			"${raw}_max_ms") ms ($(number "${raw}_p999_ms"), $(number "${raw}_p50_ms"))" "${goal:+at most $goal ms}" "$judged"
}

# upkeep_load FOLDER PLACE: a guest writes 4 KiB at random, 16 in flight, without a pause, and another flushes.
upkeep_load() {
	bench-upkeep load "$1" "$mib" "$seconds" > "$memo"
	upkeep_row 'switch to a child under load: exchange of the pointer, longest of 20' "$2" "$(number exchange_max_ms) ms" '' \
		'under 1 ms' "$(verdict "$(number exchange_max_ms)" most 1)"
	upkeep_row 'the whole switch, old leaf at rest, longest of 20' "$2" \
		"$(number switch_max_ms) ms (median $(number switch_p50_ms))" '' '' ''
	latency_row 'longest write while children are switched to' "$2" switch_write
	latency_row 'longest write while the leaf is merged' "$2" merge_leaf_write 50
	latency_row 'longest write while 20 middle layers are merged' "$2" merge_middle_write 50
	latency_row 'longest flush while the leaf is merged' "$2" merge_leaf_flush
	latency_row 'longest flush while 20 middle layers are merged' "$2" merge_middle_flush
	upkeep_row 'merge of the leaf under a writer that never pauses: moved, of what it held' "$2" \
		"$(number merge_leaf_merged_mib) MiB in $(number merge_leaf_seconds) s" "$(number merge_leaf_held_mib) MiB" \
		'no more, and it ends' "$(verdict "$(number merge_leaf_merged_mib)" most "$(number merge_leaf_held_mib)")"
}

# upkeep_merge FOLDER PLACE
upkeep_merge() {
	local cache
	bench-upkeep merge "$1" $((2 * mib)) > "$memo"
	for cache in cold warm; do
		[ "$cache $2" != 'cold tmpfs, no disk' ] || continue
		upkeep_row "offline merge of $((2 * mib)) MiB, durable, $cache cache" "$2" "$(number merge_${cache}_mb_s) MB/s" \
			"cp and fsync: $(number cp_${cache}_mb_s) MB/s" '' ''
	done
	[ -z "$(number amplification_cold)" ] || upkeep_row 'bytes written per byte merged, as the kernel counts' "$2" \
		"$(number amplification_cold)" 'vhd-util: 18' 'at most 1.1' "$(verdict "$(number amplification_cold)" most 1.1)"
}

# upkeep_check FOLDER PLACE: 1,044,480 blocks, all allocated, in files that are nearly all hole.
upkeep_check() {
	local type i ms cold peak
	bench-upkeep largest "$1/dynamic.vhd"
	bench-upkeep largest "$1/differencing.vhd" "$1/dynamic.vhd"
	for type in dynamic differencing; do
		sync "$1/dynamic.vhd" "$1/differencing.vhd"
		# Clean pages only leave the cache.
		cold=''
		if [ "$2" != 'tmpfs, no disk' ] && dd of="$1/dynamic.vhd" oflag=nocache conv=notrunc,fdatasync count=0 \
			status=none && dd of="$1/differencing.vhd" oflag=nocache conv=notrunc,fdatasync count=0 status=none; then
			cold=$(check_ms "$1/$type.vhd")
		fi
		ms=$(for ((i = 0; i < 3; i++)); do check_ms "$1/$type.vhd"; done | median)
		vhd check "$1/$type.vhd" > /dev/null & # its memory, looked at while it lives
		peak=0
		while i=$(awk '/^VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$!/status" 2> /dev/null) && [ -n "$i" ]; do
			peak=$i
		done
		wait $!
		upkeep_row "check of a $type disk, 1,044,480 blocks allocated" "$2" \
			"$ms ms warm${cold:+, $cold ms cold}, $peak MiB" '' 'under 1000 ms warm' "$(verdict "$ms" most 1000)"
	done
	rm -f "$1/dynamic.vhd" "$1/differencing.vhd"
}

check_ms() {
	local start
	start=$(date +%s%N)
	vhd check "$1" > /dev/null
	echo $((($(date +%s%N) - start) / 1000000))
}

upkeep_table() {
	memo=$work/memo
	echo '| Upkeep | On | vhd | beside | goal | |'
	echo '|---|---|---|---|---|---|'
	upkeep_load "$work" "$kind"
	upkeep_merge "$work" "$kind"
	upkeep_check "$work" "$kind"
	if [ -d /dev/shm ] && [ -w /dev/shm ] && [ "$(free_gib /dev/shm)" -ge 4 ]; then
		memory=${memory:-$(mktemp -d /dev/shm/bench.XXXXXX)}
		rm -f "$memory"/full.*
		upkeep_load "$memory" 'tmpfs, no disk'
		upkeep_merge "$memory" 'tmpfs, no disk'
		upkeep_check "$memory" 'tmpfs, no disk'
	fi
}

kind=$(stat -f -c %T "$work")
[ "$only" = upkeep ] || io_table
[ "$only" = io ] || { echo; upkeep_table; }

echo
for note in ${notes[@]+"${notes[@]}"}; do
	echo "- $note"
done
