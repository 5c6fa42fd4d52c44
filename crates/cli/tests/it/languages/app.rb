require "socket"

server = TCPServer.new("0.0.0.0", 8080)
loop do
  Thread.start(server.accept) do |client|
    nil until client.gets.to_s.strip.empty?
    client.write "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\nruby says hello"
    client.close
  end
end
