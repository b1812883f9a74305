/* 8 MiB to the peer's echo and back, blocking with two threads and non-blocking with poll; and one way each. */
#include <pthread.h>

#include "t.h"

#define TOTAL (8u << 20)
#define BLOCK 65536

static void *writer(void *argument)
{
    static unsigned char block[BLOCK];
    int fd = *(int *)argument;
    for (size_t offset = 0; offset < TOTAL; offset += BLOCK) {
        pattern_fill(block, BLOCK, offset);
        if (t_write_all(fd, block, BLOCK) != BLOCK)
            return NULL;
    }
    shutdown(fd, SHUT_WR);
    return NULL;
}

static void blocking(void)
{
    static unsigned char block[BLOCK];
    pthread_t thread;
    size_t offset = 0;
    bool right = true;
    ssize_t got;
    int fd = MUST(peer_connect(PORT_ECHO));
    pthread_create(&thread, NULL, writer, &fd);
    T_HERE("read of the echo");
    while ((got = read(fd, block, BLOCK)) > 0) {
        right = right && pattern_match(block, (size_t)got, offset) == (size_t)got;
        offset += (size_t)got;
    }
    pthread_join(thread, NULL);
    CHECK_EQ(got, 0, "blocking: the stream ends");
    CHECK_EQ(offset, TOTAL, "blocking: after 8 MiB");
    CHECK(right, "blocking: every byte right");
    close(fd);
}

static void non_blocking(void)
{
    static unsigned char out[BLOCK], in[BLOCK];
    size_t sent = 0, received = 0;
    bool right = true, ended = false;
    int fd = MUST(peer_connect(PORT_ECHO));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (!ended) {
        struct pollfd entry = {fd, (short)(POLLIN | (sent < TOTAL ? POLLOUT : 0)), 0};
        T_HERE("poll of the non-blocking echo");
        if (poll(&entry, 1, T_PATIENCE_MS) <= 0)
            break;
        if (entry.revents & POLLOUT) {
            size_t length = TOTAL - sent < BLOCK ? TOTAL - sent : BLOCK;
            pattern_fill(out, length, sent);
            ssize_t written = write(fd, out, length);
            if (written > 0)
                sent += (size_t)written;
            if (sent == TOTAL)
                shutdown(fd, SHUT_WR);
        }
        if (entry.revents & POLLIN) {
            ssize_t got = read(fd, in, BLOCK);
            if (got > 0) {
                right = right && pattern_match(in, (size_t)got, received) == (size_t)got;
                received += (size_t)got;
            }
            ended = got == 0;
        }
    }
    CHECK(ended, "non-blocking: the stream ends");
    CHECK_EQ(received, TOTAL, "non-blocking: after 8 MiB");
    CHECK(right, "non-blocking: every byte right");
    close(fd);
}

static void one_way(void)
{
    static unsigned char block[BLOCK];
    uint32_t sum = CHECKSUM_START, told = 0;
    unsigned long count = 0;
    size_t offset = 0;
    bool right = true;
    ssize_t got;
    int fd = MUST(peer_connect(PORT_DISCARD));
    for (; offset < TOTAL; offset += BLOCK) {
        pattern_fill(block, BLOCK, offset);
        sum = checksum_add(sum, block, BLOCK);
        MUST(t_write_all(fd, block, BLOCK) == BLOCK ? 0 : -1);
    }
    shutdown(fd, SHUT_WR);
    CHECK(sscanf(peer_answer(fd), "%lu %u", &count, &told) == 2, "upload: the peer answers after our FIN");
    CHECK_EQ(count, TOTAL, "upload: it counted 8 MiB");
    CHECK_EQ(told, sum, "upload: with the right checksum");
    close(fd);

    fd = MUST(peer_connect(PORT_SOURCE));
    MUST(peer_tell(fd, "%u", TOTAL));
    T_HERE("download");
    for (offset = 0; (got = read(fd, block, BLOCK)) > 0; offset += (size_t)got)
        right = right && pattern_match(block, (size_t)got, offset) == (size_t)got;
    CHECK_EQ(got, 0, "download: the stream ends");
    CHECK_EQ(offset, TOTAL, "download: after 8 MiB");
    CHECK(right, "download: every byte right");
    close(fd);
}

/* test REF D-01 */
/* test REF T-06 */
int main(void)
{
    t_begin();
    blocking();
    non_blocking();
    one_way();
    return t_end();
}
