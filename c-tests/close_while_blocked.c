/* close() and shutdown() by one thread while another is blocked in read: close does not wake it, shutdown does. */
#include <pthread.h>

#include "t.h"

static int fd;
static volatile ssize_t got = -2;
static volatile int done;

static void *reader(void *unused)
{
    char byte;
    (void)unused;
    got = read(fd, &byte, 1);
    done = 1;
    return NULL;
}

/* test REF D-01 */
int main(void)
{
    int control;
    pthread_t thread;

    t_begin();
    fd = peer_pair(&control);
    pthread_create(&thread, NULL, reader, NULL);
    t_sleep_ms(100);
    CHECK_EQ(shutdown(fd, SHUT_RD), 0, "shutdown of the read half");
    pthread_join(thread, NULL);
    CHECK_EQ(got, 0, "wakes the reader with 0");
    close(fd);
    close(control);

    fd = peer_pair(&control);
    done = 0;
    pthread_create(&thread, NULL, reader, NULL);
    t_sleep_ms(100);
    CHECK_EQ(close(fd), 0, "close");
    t_sleep_ms(100);
    CHECK_EQ(done, 0, "does not wake the reader");
    CHECK_EQ(peer_ask(control, "SEND 1"), 1, "the connection still lives: the peer sends");
    pthread_join(thread, NULL);
    CHECK_EQ(got, 1, "and the reader reads it");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "then the connection ends with a FIN");
    return t_end();
}
