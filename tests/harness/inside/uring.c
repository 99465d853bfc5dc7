// SPDX-License-Identifier: GPL-2.0
/*
 * An HTTP server on io_uring: one multishot accept, and one operation at a
 * time for each connection. It answers each GET with the file of that name.
 *
 *     uring PORT FOLDER 4|6
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum step { RECEIVE, SEND, CLOSE };

struct connection {
	int fd;
	enum step step;
	int last;		/* the client asked for no more */
	size_t have;
	char head[8192];
	char *answer;
	size_t size, sent;
};

static struct io_uring ring;
static const char *folder;

static void *must(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

static void go_on(struct connection *c)
{
	struct io_uring_sqe *sqe = must(io_uring_get_sqe(&ring));

	if (c->step == RECEIVE)
		io_uring_prep_recv(sqe, c->fd, c->head + c->have,
				   sizeof(c->head) - 1 - c->have, 0);
	else if (c->step == SEND)
		io_uring_prep_send(sqe, c->fd, c->answer + c->sent,
				   c->size - c->sent, MSG_NOSIGNAL);
	else
		io_uring_prep_close(sqe, c->fd);
	io_uring_sqe_set_data(sqe, c);
}

/* Make the answer to the head that is whole. */
static void answer(struct connection *c)
{
	char name[512], path[256];
	struct stat about = { 0 };
	int file = -1;

	if (sscanf(c->head, "GET %255s", path) == 1 && !strstr(path, "..")) {
		snprintf(name, sizeof(name), "%s%s", folder, path);
		file = open(name, O_RDONLY);
	}
	if (file >= 0 && fstat(file, &about))
		abort();
	c->answer = must(malloc(about.st_size + 128));
	c->size = sprintf(c->answer,
			  "HTTP/1.1 %s\r\nContent-Length: %ld\r\n\r\n",
			  file < 0 ? "404 Not Found" : "200 OK",
			  (long)about.st_size);
	if (file >= 0) {
		if (read(file, c->answer + c->size, about.st_size) !=
		    about.st_size)
			abort();
		close(file);
	}
	c->size += about.st_size;
	c->sent = 0;
	c->last = !!strstr(c->head, "Connection: close");
	c->step = SEND;
}

static void happened(struct connection *c, int result)
{
	if (c->step == CLOSE) {
		free(c->answer);
		free(c);
		return;
	}
	if (result <= 0) {
		c->step = CLOSE;
	} else if (c->step == RECEIVE) {
		c->have += result;
		c->head[c->have] = 0;
		if (strstr(c->head, "\r\n\r\n"))
			answer(c);
		else if (c->have == sizeof(c->head) - 1)
			c->step = CLOSE;
	} else {
		c->sent += result;
		if (c->sent == c->size) {
			free(c->answer);
			c->answer = NULL;
			c->have = 0;
			c->step = c->last ? CLOSE : RECEIVE;
		}
	}
	go_on(c);
}

static void accept_all(int listener)
{
	struct io_uring_sqe *sqe = must(io_uring_get_sqe(&ring));

	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, 0);
	io_uring_sqe_set_data(sqe, NULL);
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 address = { 0 };
	int listener, one = 1;

	if (argc != 4)
		return 2;
	folder = argv[2];
	/* Family and port are where those of IPv4 are, too. */
	address.sin6_family = *argv[3] == '6' ? AF_INET6 : AF_INET;
	address.sin6_port = htons(atoi(argv[1]));
	listener = socket(address.sin6_family, SOCK_STREAM, 0);
	if (listener < 0)
		return 2;
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(listener, 128)) {
		perror("uring");
		return 1;
	}
	errno = -io_uring_queue_init(256, &ring, 0);
	if (errno) {
		perror("io_uring_queue_init");
		return 1;
	}
	accept_all(listener);
	for (;;) {
		struct io_uring_cqe *cqe;
		struct connection *c;
		int result, more;

		io_uring_submit(&ring);
		if (io_uring_wait_cqe(&ring, &cqe))
			continue;
		c = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		more = cqe->flags & IORING_CQE_F_MORE;
		io_uring_cqe_seen(&ring, cqe);
		if (c) {
			happened(c, result);
			continue;
		}
		if (result >= 0) {
			c = must(calloc(1, sizeof(*c)));
			c->fd = result;
			go_on(c);
		}
		if (!more)
			accept_all(listener);
	}
}
