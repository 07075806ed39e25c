/* Holds HOLD MB of private memory and streams through a file of any length, once, from start to end.
 * usage: hold HOLD_MB [FILE] */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    size_t size = atol(argv[1]) << 20;
    char *held = malloc(size);
    if (!held)
        return 1;
    for (size_t i = 0; i < size; i += 4096)
        held[i] = (char)(i >> 12 | 1);
    if (argc > 2) {
        static char buffer[256 << 10];
        int file = open(argv[2], O_RDONLY);
        if (file < 0)
            return 1;
        posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM); /* single pages: large ones are reclaimed almost for free */
        while (read(file, buffer, sizeof buffer) > 0)
            usleep(100);
    }
    for (;;)
        pause();
}
