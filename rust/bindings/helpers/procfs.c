// SPDX-License-Identifier: GPL-2.0
/* Files in /proc. */
#include <linux/fs.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

void *carisma_helper_seq_data(const struct seq_file *file)
{
	return pde_data(file_inode(file->file));
}
