/* A program that throws its environment away, and overwrites what lay there, before it makes its first socket (mail
 * servers do): what it was started with counts. */
#include "t.h"

extern char **environ;

int main(void)
{
    t_begin();
    char peer[64];
    snprintf(peer, sizeof peer, "%s", T_PEER);
    for (char **entry = environ; *entry; entry++)
        memset(*entry, 'x', strlen(*entry));
    clearenv();
    CHECK(getenv("PATH") == NULL, "nothing is left");
    int fd = MUST(t_tcp(0));
    CHECK_EQ(t_connect(fd, peer, PORT_ECHO), 0, "connect");
    char answer[5] = {0};
    CHECK_EQ(write(fd, "hello", 5), 5, "write");
    CHECK_EQ(recv(fd, answer, 5, MSG_WAITALL), 5, "read");
    CHECK(memcmp(answer, "hello", 5) == 0, "the words come back");
    close(fd);
    return t_end();
}
