// TCP retransmits and resets by peer, packets dropped by reason (and by local port where the kernel names the socket).
// A peer is the remote address; the network namespace is not known from a tracepoint's arguments.
// A SYN refused at a full accept queue passes no tracepoint (ListenOverflows counts it); a final ACK does.

enum peer_kind { RETRANSMIT, RESET_SENT, RESET_RECEIVED };

struct peer { u32 kind; u32 family; u8 address[16]; };
struct drop { u32 reason; u32 port; };
BPF_PERCPU_ARRAY(network_events, u64, 1);
BPF_TABLE("lru_hash", struct peer, u64, tcp_peers, 2048);
BPF_HASH(packet_drops, struct drop, u64, 1024);

static __always_inline void count_peer(struct peer *peer) {
    u64 zero = 0, *count = tcp_peers.lookup_or_try_init(peer, &zero);
    if (count)
        add(*count, 1);
}

#define peer_of(kind_, args) \
    struct peer peer = {.kind = kind_, .family = (args)->family}; \
    if ((args)->family == 2) \
        __builtin_memcpy(peer.address, (args)->daddr, 4); \
    else \
        __builtin_memcpy(peer.address, (args)->daddr_v6, 16)

#ifdef FIELD_tcp_retransmit_skb__family
int tp__tcp__tcp_retransmit_skb(struct tracepoint__tcp__tcp_retransmit_skb *args) {
    peer_of(RETRANSMIT, args);
    count_peer(&peer);
    return 0;
}
#endif

#ifdef FIELD_tcp_receive_reset__family
int tp__tcp__tcp_receive_reset(struct tracepoint__tcp__tcp_receive_reset *args) {
    peer_of(RESET_RECEIVED, args);
    count_peer(&peer);
    return 0;
}
#endif

#ifdef FIELD_tcp_send_reset__family
int tp__tcp__tcp_send_reset(struct tracepoint__tcp__tcp_send_reset *args) {
    peer_of(RESET_SENT, args);
    count_peer(&peer);
    return 0;
}
#elif defined(FIELD_tcp_send_reset__daddr)
// Since 6.10 the addresses are whole socket addresses: family, port, then the address (IPv6 after its flow label).
int tp__tcp__tcp_send_reset(struct tracepoint__tcp__tcp_send_reset *args) {
    u16 family = *(u16 *)args->daddr;
    struct peer peer = {.kind = RESET_SENT, .family = family};
    if (family == 2)
        __builtin_memcpy(peer.address, args->daddr + 4, 4);
    else
        __builtin_memcpy(peer.address, args->daddr + 8, 16);
    count_peer(&peer);
    return 0;
}
#endif

#ifdef FIELD_kfree_skb__reason
int tp__skb__kfree_skb(struct tracepoint__skb__kfree_skb *args) {
    struct drop key = {.reason = args->reason};
    network_events.increment(FIRST);
    if (key.reason < 2) // not dropped, consumed
        return 0;
#if defined(FIELD_kfree_skb__rx_sk) && defined(OFF_SOCK_PORT)
    if (args->rx_sk) {
        u16 port = 0;
        read_member(port, args->rx_sk, OFF_SOCK_PORT);
        key.port = port;
    }
#endif
    u64 zero = 0, *count = packet_drops.lookup_or_try_init(&key, &zero);
    if (count)
        add(*count, 1);
    return 0;
}
#endif
