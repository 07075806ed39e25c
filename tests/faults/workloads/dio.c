/* Direct I/O of BLOCK kB at random places of a file or device by N threads; PAUSE microseconds between two requests.
 * usage: dio FILE SIZE_MB BLOCK_KB THREADS read|write PAUSE_US */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *path;
static size_t blocks, block;
static int writes;
static long pause_us;

static void *work(void *seed) {
    uint64_t x = 88172645463325252ULL + (uintptr_t)seed * 7919;
    char *buffer = aligned_alloc(4096, block);
    int file = open(path, (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
    if (!buffer || file < 0)
        exit(1);
    memset(buffer, 'x', block);
    for (;;) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        off_t at = x % blocks * block;
        if ((writes ? pwrite(file, buffer, block, at) : pread(file, buffer, block, at)) < 0)
            usleep(100000);
        if (pause_us)
            usleep(pause_us);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 7)
        return 2;
    path = argv[1];
    block = (size_t)atol(argv[3]) << 10;
    blocks = ((size_t)atol(argv[2]) << 20) / block;
    writes = !strcmp(argv[5], "write");
    pause_us = atol(argv[6]);
    for (long i = 1; i < atol(argv[4]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i))
            return 1;
    }
    work(NULL);
}
