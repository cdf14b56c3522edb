// s3rver on a free port of the loopback. Arguments: a folder for its data, and a bucket to make.
// Prints the port; ends with its standard input.
import S3rver from 's3rver';

const [directory, bucket] = process.argv.slice(2);
const server = new S3rver({
  directory,
  address: '127.0.0.1',
  port: 0,
  silent: true,
  vhostBuckets: false,
  configureBuckets: [{ name: bucket }],
});
const { port } = await server.run();
console.log(port);
process.stdin.resume().on('end', () => process.exit());
