/* A program that starts with 0, 1 and 2 closed: its sockets take these numbers, and nothing else lands on them. */
#include "t.h"

/* The second start, with nothing open but the report's descriptor. */
static int closed_start(void)
{
    char byte = 'q';
    t_begin();
    CHECK_EQ(t_tcp(0), 0, "the first socket is 0");
    CHECK_EQ(t_connect(0, T_PEER, PORT_ECHO), 0, "it connects");
    CHECK_EQ(write(0, &byte, 1), 1, "writes");
    CHECK_EQ(read(0, &byte, 1), 1, "reads");
    CHECK_EQ(t_tcp(0), 1, "the next is 1");
    CHECK_EQ(t_udp(0), 2, "the next 2");
    CHECK_EQ(t_connect(1, T_PEER, PORT_ECHO), 0, "1 connects");
    CHECK_EQ(write(1, &byte, 1), 1, "1 writes to the peer, not to a terminal");
    CHECK_EQ(read(1, &byte, 1), 1, "1 reads");
    CHECK_EQ(close(0), 0, "0 is closed");
    CHECK_EQ(t_tcp(0), 0, "and used again");
    return t_end();
}

/* test REF S-01 */
int main(int argc, char **argv)
{
    t_out = 100;
    if (argc > 1)
        return closed_start();
    /* Not close-on-exec: the report goes on through it. */
    if (dup2(1, t_out) != t_out)
        return 1;
    closefrom(101);
    for (int fd = 0; fd < 100; fd++)
        close(fd);
    execl("/proc/self/exe", argv[0], "closed", (char *)NULL);
    return 1;
}
