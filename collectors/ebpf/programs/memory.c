// Direct reclaim (host-wide and of a memory cgroup) by the process that stalls in it, and pages moved between nodes.

struct reclaim { u64 ns; u64 count; };
BPF_HASH(reclaim_started, u32, u64, 4096);
BPF_HASH(reclaim_stalls, u32, struct reclaim, 2048);
BPF_ARRAY(page_migrations, u64, 32);

static __always_inline int reclaim_begin(void) {
    u32 task = bpf_get_current_pid_tgid();
    u64 now = bpf_ktime_get_ns();
    reclaim_started.update(&task, &now);
    return 0;
}

static __always_inline int reclaim_end(void) {
    u64 id = bpf_get_current_pid_tgid();
    u32 task = id, tgid = id >> 32;
    u64 *started = reclaim_started.lookup(&task);
    if (!started)
        return 0;
    struct reclaim zero = {}, *stall = reclaim_stalls.lookup_or_try_init(&tgid, &zero);
    if (stall) {
        add(stall->ns, bpf_ktime_get_ns() - *started);
        add(stall->count, 1);
    }
    reclaim_started.delete(&task);
    return 0;
}

int raw__mm_vmscan_direct_reclaim_begin(struct bpf_raw_tracepoint_args *ctx) { return reclaim_begin(); }
int raw__mm_vmscan_direct_reclaim_end(struct bpf_raw_tracepoint_args *ctx) { return reclaim_end(); }
int raw__mm_vmscan_memcg_reclaim_begin(struct bpf_raw_tracepoint_args *ctx) { return reclaim_begin(); }
int raw__mm_vmscan_memcg_reclaim_end(struct bpf_raw_tracepoint_args *ctx) { return reclaim_end(); }

#ifdef TP_migrate__mm_migrate_pages
int tp__migrate__mm_migrate_pages(struct tracepoint__migrate__mm_migrate_pages *args) {
    int reason = args->reason;
    u64 *pages = page_migrations.lookup(&reason);
    if (pages)
        add(*pages, args->succeeded);
    return 0;
}
#endif
