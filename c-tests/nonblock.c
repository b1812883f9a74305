/* Non-blocking writes until the buffers are full, and writability once the peer reads. */
#include "t.h"

static unsigned char block[65536];

/* test REF D-01 */
int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    int port = MUST(peer_ask(control, "LISTEN 65536"));
    int fd = MUST(t_tcp(0));
    MUST(t_set_option(fd, SOL_SOCKET, SO_SNDBUF, 32768));
    MUST(t_connect(fd, T_PEER, port));
    MUST(peer_ask(control, "ACCEPT"));
    CHECK_ERRNO(recv(fd, block, 1, MSG_DONTWAIT), EAGAIN, "nothing to read: EAGAIN");
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    CHECK_ERRNO(read(fd, block, 1), EAGAIN, "O_NONBLOCK: EAGAIN");
    long total = 0;
    ssize_t written;
    /* Full only when nothing moved for a while: the peer's buffer takes more while frames travel. */
    bool moved = true;
    while (moved) {
        moved = false;
        pattern_fill(block, sizeof block, (uint64_t)total);
        while ((written = write(fd, block, sizeof block)) > 0) {
            total += written;
            moved = true;
            pattern_fill(block, sizeof block, (uint64_t)total);
        }
        t_sleep_ms(300);
    }
    CHECK_ERRNO(write(fd, block, sizeof block), EAGAIN, "the buffers are full: EAGAIN");
    CHECK(total > 16384 && total < 4 << 20, "after more than 16 KiB and less than 4 MiB");
    CHECK_EQ(t_mask(fd), 0, "poll shows nothing");
    CHECK_ERRNO(send(fd, block, 1, MSG_DONTWAIT), EAGAIN, "a single byte: EAGAIN too");
    MUST(fcntl(fd, F_SETFL, 0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 100));
    CHECK_ERRNO(write(fd, block, 1), EAGAIN, "blocking under SO_SNDTIMEO: EAGAIN after the time");
    MUST(peer_tell(control, "RECV %ld", total));
    CHECK(t_wait(fd, POLLOUT) & POLLOUT, "writable again when the peer reads");
    CHECK_EQ(peer_number(control), total, "the peer got every byte in order");
    pattern_fill(block, 10, (uint64_t)total);
    CHECK_EQ(write(fd, block, 10), 10, "a write works again");
    CHECK_EQ(peer_ask(control, "RECV 10"), 10, "and arrives");

    /* A blocking write of more than fits waits for room. */
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 0));
    static unsigned char large[1 << 20];
    pattern_fill(large, sizeof large, (uint64_t)total + 10);
    MUST(peer_tell(control, "RECV %zu", sizeof large));
    CHECK_EQ(write(fd, large, sizeof large), sizeof large, "a blocking write of 1 MiB returns all of it");
    CHECK_EQ(peer_number(control), sizeof large, "and the peer has it");
    return t_end();
}
