/* A child and its parent use one connection in turns; the last close sends the FIN. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    char data[8];
    int control, to_child[2], to_parent[2];

    t_begin();
    int fd = peer_pair(&control);
    MUST(pipe(to_child));
    MUST(pipe(to_parent));
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        bool right = true;
        for (int i = 0; i < 3; i++) {
            right = right && read(to_child[0], data, 1) == 1;
            right = right && t_read_all(fd, data, 2) == 2 && write(fd, data, 2) == 2;
            right = right && write(to_parent[1], "c", 1) == 1;
        }
        _exit(right ? 0 : 1);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(peer_ask(control, "SEND 4"), 4, "round %d: the peer sends four bytes", i);
        CHECK_EQ(t_read_all(fd, data, 2), 2, "round %d: the parent reads two", i);
        CHECK_EQ(write(fd, data, 2), 2, "round %d: and writes them back", i);
        MUST(write(to_child[1], "p", 1));
        CHECK_EQ(read(to_parent[0], data, 1), 1, "round %d: the child did the same with the others", i);
        CHECK_EQ(peer_ask(control, "RECV 4"), 4, "round %d: the peer got all four in order", i);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "the child had no error");
    CHECK_EQ(write(fd, "!", 1), 1, "the connection outlives the child");
    CHECK_EQ(close(fd), 0, "the last close");
    CHECK_EQ(peer_ask(control, "RECVALL"), 1, "the peer has the last byte and the end");
    close(control);

    /* The other way round: the parent closes first. */
    fd = peer_pair(&control);
    child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        _exit(t_read_all(fd, data, 3) == 3 && write(fd, data, 3) == 3 ? 0 : 1);
    }
    close(fd);
    CHECK_EQ(peer_ask(control, "SEND 3"), 3, "closed by the parent, held by the child: the peer sends");
    CHECK_EQ(peer_ask(control, "RECV 3"), 3, "the child answers");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and its exit sends the FIN");
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "the child had no error");
    return t_end();
}
