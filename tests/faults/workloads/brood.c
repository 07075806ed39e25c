/* A parent of many short-lived children.
 * usage: brood reap PAUSE_US (fork, wait, again) | brood keep COUNT (fork COUNT children that end, never wait) */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    if (!strcmp(argv[1], "keep")) {
        for (int i = 0; i < atoi(argv[2]); i++) {
            if (fork() == 0)
                _exit(0);
            usleep(2000);
        }
        for (;;)
            pause();
    }
    for (;;) {
        for (int i = 0; i < 8; i++)
            if (fork() == 0)
                _exit(0);
        while (wait(NULL) > 0)
            ;
        if (atoi(argv[2]))
            usleep(atoi(argv[2]));
    }
}
