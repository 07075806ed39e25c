"""Types of the kernel's variables that BTF leaves out (it describes those of the per-CPU section only).

The names come from the kernel's sources; where a type changed over the years the candidates stand in order, newest
first, and the first that the dump's own BTF knows is taken: members are probed, never a version.
"""

from __future__ import annotations

VARIABLES: dict[str, str] = {
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__cpu_present_mask": "struct cpumask",
    "__per_cpu_offset": "unsigned long [8192]",
    "btf_idr": "struct idr",
    "contig_page_data": "struct pglist_data",
    "crash_notes": "note_buf_t *",
    "crashing_cpu": "int",
    "high_memory": "void *",
    "init_mm": "struct mm_struct",
    "init_net": "struct net",
    "init_pid_ns": "struct pid_namespace",
    "init_task": "struct task_struct",
    "init_uts_ns": "struct uts_namespace",
    "jiffies": "unsigned long",
    "jiffies_64": "u64",
    "max_pfn": "unsigned long",
    "mem_section": "struct mem_section **",
    "modules": "struct list_head",
    "node_data": "struct pglist_data *[64]",
    "node_states": "nodemask_t [6]",
    "nr_cpu_ids": "unsigned int",
    "nr_node_ids": "unsigned int",
    "nr_vmap_nodes": "int",
    "page_offset_base": "unsigned long",
    "panic_cpu": "atomic_t",
    "phys_base": "unsigned long",
    "prb": "struct printk_ringbuffer *",
    "runqueues": "struct rq",
    "slab_caches": "struct list_head",
    "slab_kset": "struct kset *",
    "swapper_pg_dir": "unsigned long [512]",
    "sysctl_hung_task_timeout_secs": "unsigned long",
    "tainted_mask": "unsigned long",
    "totalram_pages": "unsigned long",
    "_totalram_pages": "atomic_long_t",
    "vm_node_stat": "atomic_long_t [128]",
    "vm_zone_stat": "atomic_long_t [32]",
    "vmalloc_base": "unsigned long",
    "vmap_area_root": "struct rb_root",
    "vmap_nodes": "struct vmap_node *",
    "vmap_zone_size": "size_t",
    "vmemmap_base": "unsigned long",
    "workqueues": "struct list_head",
}
