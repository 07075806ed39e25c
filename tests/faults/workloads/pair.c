/* A server on 127.0.0.1:PORT whose two workers take two mutexes in opposite order after some requests:
 * the acceptor hands each connection to a worker and waits for it.  usage: pair PORT REQUESTS */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_mutex_t accounts = PTHREAD_MUTEX_INITIALIZER, journal = PTHREAD_MUTEX_INITIALIZER;
static int listener;
static long left;

static void *work(void *number) {
    pthread_mutex_t *first = number ? &journal : &accounts, *second = number ? &accounts : &journal;
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        int crossed = __sync_sub_and_fetch(&left, 1) < 0;
        char buffer[256];
        if (peer < 0)
            continue;
        if (read(peer, buffer, sizeof buffer) < 0) {
            close(peer);
            continue;
        }
        if (crossed) {
            pthread_mutex_lock(first);
            usleep(300000);
            pthread_mutex_lock(second);
        } else {
            pthread_mutex_lock(&accounts);
            pthread_mutex_lock(&journal);
        }
        if (write(peer, "HTTP/1.0 200 OK\r\n\r\nok\n", 22) < 0)
            _exit(1);
        pthread_mutex_unlock(&accounts);
        pthread_mutex_unlock(&journal);
        close(peer);
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    pthread_t one, two;
    int on = 1;
    if (argc < 3)
        return 2;
    at.sin_port = htons(atoi(argv[1]));
    left = atol(argv[2]);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 64))
        return 1;
    pthread_create(&one, NULL, work, (void *)0);
    pthread_create(&two, NULL, work, (void *)1);
    pthread_join(one, NULL);
}
