/* Touches pages at random, in a mapped file or in private memory of SIZE MB.
 * usage: pages file FILE | pages anon SIZE_MB */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    volatile char *memory;
    size_t size;
    int anon;
    if (argc < 3)
        return 2;
    anon = !strcmp(argv[1], "anon");
    if (anon) {
        size = (size_t)atol(argv[2]) << 20;
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    } else {
        struct stat info;
        int file = open(argv[2], O_RDONLY);
        if (file < 0 || fstat(file, &info))
            return 1;
        size = info.st_size;
        memory = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
    }
    if (memory == MAP_FAILED)
        return 1;
    madvise((void *)memory, size, MADV_RANDOM);
    uint64_t x = 88172645463325252ULL, sum = 0;
    for (;;) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        size_t at = x % (size / 4096) * 4096;
        if (anon)
            memory[at] = (char)x;
        else
            sum += memory[at];
    }
}
