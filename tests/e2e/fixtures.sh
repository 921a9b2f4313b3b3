#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Our own fixtures, laid out as different software lays out its images, read as fixtures/INDEX.tsv says.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
builddir=${VHDKIT_BUILDDIR:-$srcdir}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$builddir/fixtures/make-fixtures" "$dir" || exit 1
cp "$srcdir/fixtures/INDEX.tsv" "$dir/" || exit 1
VHDKIT_IMAGES=$dir bash "$srcdir/tests/e2e/real-images.sh"
