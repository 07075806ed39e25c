// Time in hard interrupt handlers by line and in soft interrupts by vector, by CPU.
// Local interrupts without a handler chain (the local timer, IPIs) do not pass here.

struct entered { u64 hard; u64 soft; };
BPF_PERCPU_ARRAY(interrupts_events, u64, 1);
BPF_PERCPU_ARRAY(irq_entered, struct entered, 1);
BPF_PERCPU_ARRAY(softirq_time, struct total, 16);
BPF_HASH(hardirq_time, u32, struct total, 512);

int raw__irq_handler_entry(struct bpf_raw_tracepoint_args *ctx) {
    int zero = 0;
    struct entered *entered = irq_entered.lookup(&zero);
    interrupts_events.increment(FIRST);
    if (entered)
        entered->hard = bpf_ktime_get_ns();
    return 0;
}

int raw__irq_handler_exit(struct bpf_raw_tracepoint_args *ctx) {
    int zero = 0;
    u32 line = ctx->args[0];
    struct entered *entered = irq_entered.lookup(&zero);
    struct total none = {}, *total = hardirq_time.lookup_or_try_init(&line, &none);
    if (entered && total && entered->hard) {
        add(total->ns, bpf_ktime_get_ns() - entered->hard);
        add(total->count, 1);
        entered->hard = 0;
    }
    return 0;
}

int raw__softirq_entry(struct bpf_raw_tracepoint_args *ctx) {
    int zero = 0;
    struct entered *entered = irq_entered.lookup(&zero);
    interrupts_events.increment(FIRST);
    if (entered)
        entered->soft = bpf_ktime_get_ns();
    return 0;
}

int raw__softirq_exit(struct bpf_raw_tracepoint_args *ctx) {
    int zero = 0, vector = ctx->args[0];
    struct entered *entered = irq_entered.lookup(&zero);
    struct total *total = softirq_time.lookup(&vector);
    if (entered && total && entered->soft) {
        total->ns += bpf_ktime_get_ns() - entered->soft;
        total->count++;
        entered->soft = 0;
    }
    return 0;
}
