// SPDX-License-Identifier: GPL-2.0
// Files by Node.js: server.js ADDRESS PORT FOLDER [WORKERS]
'use strict';
const cluster = require('cluster');
const fs = require('fs');
const http = require('http');

const [address, port, folder, workers] = process.argv.slice(2);
if (workers && cluster.isPrimary) {
	for (let number = 0; number < workers; number++)
		cluster.fork();
} else {
	http.createServer((request, response) => {
		response.end(fs.readFileSync(folder + request.url));
	}).listen(port, address);
}
