const { PLIMSOLL_PROGRAM_URL: url, TOKEN: token, TMPDIR: directory } = process.env;
const headers = { Authorization: 'Bearer ' + token, Connection: 'close' };
require('http').get(url, { headers, timeout: 30000 }, (answer) => {
  const parts = [];
  answer.on('data', (part) => parts.push(part)).on('end', () => {
    if (answer.statusCode !== 200) throw new Error('the program cannot be fetched: ' + Buffer.concat(parts));
    const file = require('path').join(directory || '/tmp', 'program.js');
    require('fs').writeFileSync(file, Buffer.concat(parts));
    process.argv = [process.argv[0], file];
    require(file);
  });
}).on('error', (error) => { throw error; });
