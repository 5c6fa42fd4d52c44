require("http").createServer((request, response) => response.end("node says hello")).listen(8080);
