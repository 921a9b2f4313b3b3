/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep-children.h"
#include "vhd/upkeep-request.h"

const struct upkeep_operations upkeep_operations = {
        .layer_count = vhd_layer_count,
        .layer_info = vhd_layer_info,
        .children_find = upkeep_children_find,
        .child_relink = upkeep_child_relink,
        .files_remove = upkeep_files_remove,
        .merge = vhd_merge,
        .child_prepare = vhd_child_prepare,
        .switch_child = vhd_switch_child,
        .resize = vhd_resize,
        .compact = vhd_compact,
};
