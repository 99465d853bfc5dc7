// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU's emulator that counts the instructions which a guest executes.
 *
 *	-plugin file=count.so,into=FILE
 *
 * FILE, of 8 bytes, always holds the number, in this machine's byte order. A processor that waits
 * in HLT executes none; an interrupt that it then takes counts like anything else, which the
 * guest's own idle time does not promise (docs/benchmark.md).
 *
 * What is declared here is the part of QEMU's plugin interface, version 4 (QEMU 9.2), that is used:
 * Debian does not package qemu-plugin.h.
 */

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
struct qemu_info;

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(
	uint64_t id, void (*callback)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(
	struct qemu_plugin_tb *block, void (*callback)(unsigned int cpu, void *data),
	enum qemu_plugin_cb_flags flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 4;

/* Shared with whoever reads FILE. One emulated processor: one writer. */
static volatile uint64_t *count;

static void executed(unsigned int cpu, void *data)
{
	(void)cpu;
	*count += (uintptr_t)data;
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(block, executed, QEMU_PLUGIN_CB_NO_REGS,
					     (void *)qemu_plugin_tb_n_insns(block));
}

EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv)
{
	static const char option[] = "into=";
	int file;

	(void)info;
	if (argc != 1 || strncmp(argv[0], option, strlen(option)))
		return -1;
	file = open(argv[0] + strlen(option), O_RDWR | O_CREAT, 0600);
	if (file < 0 || ftruncate(file, sizeof(*count)))
		return -1;
	count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (count == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
