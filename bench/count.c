// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU's emulator that counts the instructions which a guest executes.
 *
 *	-plugin file=count.so,into=FILE
 *
 * FILE always holds numbers of 8 bytes, in this machine's byte order: first how many there were; then,
 * of each block of them that was translated, where it begins and how many were executed there, until
 * one begins at 0. A processor that waits in HLT executes none; an interrupt that it then takes counts
 * like anything else, which the guest's own idle time does not promise (docs/benchmark.md).
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
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 4;

/* Blocks that are told apart, at 1 << 22 at most. Blocks translated anew have their places again. */
#define PLACES (1 << 22)

struct place {
	uint64_t begin;
	uint64_t executed;
};

/* Shared with whoever reads FILE. One emulated processor: one writer. */
struct counted {
	uint64_t all;
	struct place places[PLACES];
};

static volatile struct counted *counted;

/* Of each place, how long its block is: blocks of one beginning may differ in it. */
static uint16_t lengths[PLACES];

/* "data" is the number of a place and, above 32 bits, the block's length. */
static void executed(unsigned int cpu, void *data)
{
	uint64_t length = (uintptr_t)data >> 32;

	(void)cpu;
	counted->all += length;
	counted->places[(uint32_t)(uintptr_t)data].executed += length;
}

/* A hash table's slots, of 1 more than a place's number, or 0. */
static uint32_t slots[2 * PLACES];

static uint32_t place_of(uint64_t begin, size_t length)
{
	static uint32_t used;
	uint32_t slot = ((begin ^ length << 48) * 0x9e3779b97f4a7c15) >> 41;

	while (slots[slot]) {
		uint32_t place = slots[slot] - 1;

		if (counted->places[place].begin == begin && lengths[place] == length)
			return place;
		slot = (slot + 1) % (2 * PLACES);
	}
	/* When all places are taken, the last one stands for what comes. */
	if (used == PLACES)
		return PLACES - 1;
	counted->places[used].begin = begin;
	lengths[used] = length;
	slots[slot] = ++used;
	return used - 1;
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	size_t length = qemu_plugin_tb_n_insns(block);
	uintptr_t place = place_of(qemu_plugin_tb_vaddr(block), length);

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(block, executed, QEMU_PLUGIN_CB_NO_REGS,
					     (void *)(place | length << 32));
}

EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv)
{
	static const char option[] = "into=";
	int file;

	(void)info;
	if (argc != 1 || strncmp(argv[0], option, strlen(option)))
		return -1;
	file = open(argv[0] + strlen(option), O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (file < 0 || ftruncate(file, sizeof(*counted)))
		return -1;
	counted = mmap(NULL, sizeof(*counted), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (counted == MAP_FAILED)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
