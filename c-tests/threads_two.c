/* One thread reads a connection while another writes it; one polls while another reads. */
#include <pthread.h>

#include "t.h"

#define TOTAL (1u << 20)

static int fd;

static void *writer(void *unused)
{
    static unsigned char block[4096];
    (void)unused;
    for (size_t offset = 0; offset < TOTAL; offset += sizeof block) {
        pattern_fill(block, sizeof block, offset);
        if (t_write_all(fd, block, sizeof block) != (ssize_t)sizeof block)
            return NULL;
    }
    return &fd;
}

static void *late_writer(void *unused)
{
    (void)unused;
    t_sleep_ms(100);
    return write(fd, "w", 1) == 1 ? &fd : NULL;
}

/* test REF D-01 */
int main(void)
{
    static unsigned char block[4096];
    pthread_t thread;
    void *result;
    bool right = true;
    size_t offset = 0;

    t_begin();
    fd = MUST(peer_connect(PORT_ECHO));
    pthread_create(&thread, NULL, writer, NULL);
    T_HERE("read beside the writer");
    while (offset < TOTAL) {
        ssize_t got = read(fd, block, sizeof block);
        if (got <= 0)
            break;
        right = right && pattern_match(block, (size_t)got, offset) == (size_t)got;
        offset += (size_t)got;
    }
    pthread_join(thread, &result);
    CHECK(result == &fd, "the writer wrote 1 MiB");
    CHECK_EQ(offset, TOTAL, "the reader read 1 MiB");
    CHECK(right, "every byte right");

    /* A read that sleeps is no hindrance for a write of another thread, which it waits for. */
    char byte = 0;
    pthread_create(&thread, NULL, late_writer, NULL);
    CHECK_EQ(read(fd, &byte, 1), 1, "a sleeping read gets the echo of a later write");
    pthread_join(thread, &result);
    CHECK(result == &fd, "that another thread made");
    pthread_create(&thread, NULL, late_writer, NULL);
    CHECK(t_wait(fd, POLLIN) & POLLIN, "a sleeping poll too");
    pthread_join(thread, &result);
    CHECK_EQ(read(fd, &byte, 1), 1, "and the byte is there");
    return t_end();
}
