// Block requests: latency by device and direction, volume and time by the process that sent them.
//
// A request is followed from block_io_start (kernel 6.5 on: in the sender's context, queueing included), on older
// kernels from block_rq_issue (the device's share), to block_rq_complete. Devices that handle bios without requests (dm,
// md) show through block_bio_*, for the devices that user space lists in `bio_devices`. Writeback is sent by kernel
// workers: it counts for them. A wait before the request exists (blkio throttle) shows as off-CPU time, not here.

enum direction { READ_, WRITE_, DISCARD_, FLUSH_, DIRECTIONS };

struct sent { u64 request; u64 at; u32 tgid; u32 direction; };
struct io_key { u32 tgid; u32 device; u32 direction; u32 unused; };
struct io { u64 bytes; u64 count; u64 ns; };
struct latency_key { u32 device; u32 direction; };
struct latency { u32 buckets[40]; u64 ns; u64 count; u64 errors; };

BPF_PERCPU_ARRAY(block_events, u64, 1);
BPF_ARRAY(block_opened, u64, 1); // when tracing (again) began: what was sent before may have ended unseen
// Requests under way: direct-mapped by what tells them apart, a collision loses one.
BPF_ARRAY(block_requests, struct sent, 4096);
BPF_HASH(block_io, struct io_key, struct io, 2048);
BPF_HASH(block_latency, struct latency_key, struct latency, 256);
BPF_PERCPU_ARRAY(block_scratch, struct latency, 1);
BPF_HASH(bio_devices, u32, u32, 64);

// rwbs: R read, W write, D discard, F flush (FW.. is a write with a flush before it).
static __always_inline u32 direction_of(char first, char second) {
    if (first == 'R')
        return READ_;
    if (first == 'D')
        return DISCARD_;
    if (first == 'F' && second != 'W')
        return FLUSH_;
    return WRITE_;
}

static __always_inline struct sent *sent_of(u64 request) {
    int index = (request * 0x9E3779B97F4A7C15ULL) >> 52;
    return block_requests.lookup(&index);
}

// Where requests are told apart by what they move: on the floor of requests, and on that of bios below them.
static __always_inline u64 named(u32 device, u64 sector, u64 floor) {
    return ((u64)device << 32) ^ (sector << 1) ^ floor;
}

static __always_inline int io_started(u64 request, u32 direction) {
    block_events.increment(FIRST);
    struct sent *sent = sent_of(request);
    if (!sent)
        return 0;
    sent->at = bpf_ktime_get_ns();
    sent->tgid = current_tgid();
    sent->direction = direction;
    sent->request = request;
    return 0;
}

// The request's start, where it was seen since tracing last began.
static __always_inline struct sent *started(u64 request) {
    int zero = 0;
    u64 *opened = block_opened.lookup(&zero);
    struct sent *sent = sent_of(request);
    return sent && opened && sent->request == request && sent->at >= *opened ? sent : 0;
}

static __always_inline int io_done(struct sent *sent, u32 device, u64 bytes, int error) {
    u64 ns = bpf_ktime_get_ns() - sent->at;
    struct io_key by = {.tgid = sent->tgid, .device = device, .direction = sent->direction};
    struct io none = {}, *io = block_io.lookup_or_try_init(&by, &none);
    if (io) {
        add(io->bytes, bytes);
        add(io->count, 1);
        add(io->ns, ns);
    }
    struct latency_key at = {.device = device, .direction = sent->direction};
    struct latency *latency = block_latency.lookup(&at);
    int zero = 0;
    if (!latency) {
        struct latency *blank = block_scratch.lookup(&zero);
        if (!blank)
            return 0;
        latency = block_latency.lookup_or_try_init(&at, blank);
    }
    if (latency) {
        u64 bucket = bpf_log2l(ns >> 10); // octaves from about a microsecond
        if (bucket < 40)
            add(latency->buckets[bucket], 1);
        add(latency->ns, ns);
        add(latency->count, 1);
        if (error)
            add(latency->errors, 1);
    }
    sent->request = 0;
    return 0;
}

#if defined(TP_block__block_io_start) && defined(OFF_REQUEST_QUEUE) && defined(OFF_REQUEST_FLAGS) \
    && defined(OFF_QUEUE_DISK) && defined(OFF_DISK_MAJOR) && defined(OFF_DISK_MINOR)
// Raw tracepoints where the request's members are known: a quarter of the cost, and its address tells it apart.
static __always_inline u32 device_of(u64 request) {
    u64 queue = 0, disk = 0;
    u32 major = 0, minor = 0;
    read_member(queue, request, OFF_REQUEST_QUEUE);
    read_member(disk, queue, OFF_QUEUE_DISK);
    read_member(major, disk, OFF_DISK_MAJOR);
    read_member(minor, disk, OFF_DISK_MINOR);
    return major << 20 | minor;
}

// Operations are numbered alike in every kernel since 4.10: 0 read, 2 flush, 3 discard, 5 secure erase.
static __always_inline u32 operation_of(u64 request) {
    u32 flags = 0;
    read_member(flags, request, OFF_REQUEST_FLAGS);
    u32 operation = flags & 0xff;
    if (operation == 0)
        return READ_;
    if (operation == 2)
        return FLUSH_;
    return operation == 3 || operation == 5 ? DISCARD_ : WRITE_;
}

int raw__block_io_start(struct bpf_raw_tracepoint_args *ctx) {
    return io_started(ctx->args[0], operation_of(ctx->args[0]));
}

int raw__block_rq_complete(struct bpf_raw_tracepoint_args *ctx) {
    struct sent *sent = started(ctx->args[0]);
    return sent ? io_done(sent, device_of(ctx->args[0]), (u32)ctx->args[2], (u32)ctx->args[1] != 0) : 0;
}
#elif defined(TP_block__block_rq_complete) && (defined(TP_block__block_io_start) || defined(TP_block__block_rq_issue))
#if defined(TP_block__block_io_start)
int tp__block__block_io_start(struct tracepoint__block__block_io_start *args) {
#else
int tp__block__block_rq_issue(struct tracepoint__block__block_rq_issue *args) {
#endif
    return io_started(named(args->dev, args->sector, 0), direction_of(args->rwbs[0], args->rwbs[1]));
}

// The end is taken from block_rq_complete: it tells the sector the request began at and, after merging, its size.
int tp__block__block_rq_complete(struct tracepoint__block__block_rq_complete *args) {
    struct sent *sent = started(named(args->dev, args->sector, 0));
    return sent ? io_done(sent, args->dev, args->nr_sector * 512ULL, args->error) : 0;
}
#endif

#if defined(TP_block__block_bio_queue) && defined(TP_block__block_bio_complete)
int tp__block__block_bio_queue(struct tracepoint__block__block_bio_queue *args) {
    u32 device = args->dev;
    if (!bio_devices.lookup(&device))
        return 0;
    return io_started(named(device, args->sector, 1), direction_of(args->rwbs[0], args->rwbs[1]));
}

int tp__block__block_bio_complete(struct tracepoint__block__block_bio_complete *args) {
    struct sent *sent = started(named(args->dev, args->sector, 1));
    return sent ? io_done(sent, args->dev, args->nr_sector * 512ULL, args->error) : 0;
}
#endif
