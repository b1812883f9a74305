/* close() with unread data resets, without it sends a FIN after what was written. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    char data[4];
    int control;

    t_begin();
    int fd = peer_pair(&control);
    MUST(peer_ask(control, "SEND 4"));
    CHECK_EQ(recv(fd, data, 4, MSG_PEEK | MSG_WAITALL), 4, "four bytes wait unread");
    CHECK_EQ(close(fd), 0, "close");
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "the peer gets a reset");
    close(control);

    fd = peer_pair(&control);
    MUST(peer_ask(control, "SEND 4"));
    CHECK_EQ(t_read_all(fd, data, 4), 4, "four bytes are read");
    CHECK_EQ(close(fd), 0, "close");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer gets a FIN");
    close(control);

    fd = peer_pair(&control);
    unsigned char block[30000];
    pattern_fill(block, sizeof block, 0);
    CHECK_EQ(t_write_all(fd, block, sizeof block), sizeof block, "30000 bytes written");
    CHECK_EQ(close(fd), 0, "close at once");
    CHECK_EQ(peer_ask(control, "RECV 30000"), 30000, "the peer gets them all");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and the FIN");
    close(control);

    fd = peer_pair(&control);
    CHECK_EQ(close(fd), 0, "close, then the peer writes");
    MUST(peer_ask(control, "WAITEND"));
    MUST(peer_ask(control, "SEND 1"));
    long state = -1;
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (t_now_ms() < deadline && (state = peer_ask(control, "STATE")) != TCP_CLOSE)
        t_sleep_ms(2);
    CHECK_EQ(state, TCP_CLOSE, "its byte is answered by a reset");
    return t_end();
}
