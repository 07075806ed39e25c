/* N threads that compute without pause.  usage: spin THREADS */
#include <pthread.h>
#include <stdlib.h>

static void *work(void *unused) {
    volatile double x = 1.0;
    (void)unused;
    for (;;)
        for (int i = 0; i < 1000000; i++)
            x = x * 1.0000001 + 0.5;
    return NULL;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 1; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL))
            return 1;
    }
    work(NULL);
}
