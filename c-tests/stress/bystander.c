/* A family that has nothing to do with those that are killed beside it on the same address: one connection to the
 * peer's echo service over which it asks and checks for as long as it lives. Arguments: port, file to which it writes
 * the number of answers. Ends with status 1 at the first wrong or missing one. */
#include "../t.h"

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    int fd = peer_connect(atoi(arguments[1]));
    int report = open(arguments[2], O_CREAT | O_WRONLY | O_TRUNC, 0600);
    if (fd < 0 || report < 0)
        return 1;
    struct timeval limit = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    unsigned char buffer[1000];
    for (uint64_t offset = 0, number = 1;; offset += sizeof buffer, number++) {
        pattern_fill(buffer, sizeof buffer, offset);
        if (t_write_all(fd, buffer, sizeof buffer) != sizeof buffer)
            return 1;
        for (size_t got = 0; got < sizeof buffer;) {
            ssize_t more = recv(fd, buffer + got, sizeof buffer - got, 0);
            if (more <= 0) {
                perror("recv");
                return 1;
            }
            got += (size_t)more;
        }
        if (pattern_match(buffer, sizeof buffer, offset) != sizeof buffer)
            return 1;
        char line[32];
        int length = snprintf(line, sizeof line, "%llu\n", (unsigned long long)number);
        if (pwrite(report, line, (size_t)length, 0) != length)
            return 1;
        usleep(5000);
    }
}
