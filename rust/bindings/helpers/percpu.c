// SPDX-License-Identifier: GPL-2.0
/* Memory that every CPU has one of. */
#include <linux/cpumask.h>
#include <linux/percpu.h>

void __percpu *carisma_helper_alloc_percpu(size_t size, size_t align)
{
	return __alloc_percpu(size, align);
}

void carisma_helper_this_cpu_add(u64 __percpu *value, u64 n)
{
	this_cpu_add(*value, n);
}

/* The sum over the CPUs that are and those that were. */
u64 carisma_helper_percpu_sum(u64 __percpu *value)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(value, cpu));
	return sum;
}
