// SPDX-License-Identifier: GPL-2.0
/*
 * How long a small message of TCP's takes there and back, between two processes.
 *
 *	message serve ADDRESS PORT
 *	message ask ADDRESS PORT COUNT
 *
 * The one sends back what it gets. The other writes a number for each round, in nanoseconds.
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE 64

static long now(void)
{
	struct timespec it;

	clock_gettime(CLOCK_MONOTONIC, &it);
	return it.tv_sec * 1000000000L + it.tv_nsec;
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	int sock = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	char message[SIZE] = "";

	if (argc < 4 || inet_pton(AF_INET, argv[2], &at.sin_addr) != 1)
		return 2;
	at.sin_port = htons(atoi(argv[3]));
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (argc == 4) {
		if (bind(sock, (struct sockaddr *)&at, sizeof(at)) || listen(sock, 1))
			return 1;
		puts("listening");
		fflush(stdout);
		sock = accept(sock, NULL, NULL);
		setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		while (recv(sock, message, SIZE, MSG_WAITALL) == SIZE)
			if (send(sock, message, SIZE, 0) != SIZE)
				return 1;
		return 0;
	}
	if (connect(sock, (struct sockaddr *)&at, sizeof(at)))
		return 1;
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	for (int left = atoi(argv[4]); left; left--) {
		long begin = now();

		if (send(sock, message, SIZE, 0) != SIZE ||
		    recv(sock, message, SIZE, MSG_WAITALL) != SIZE)
			return 1;
		printf("%ld\n", now() - begin);
	}
	return 0;
}
