// The work of the rivals: hands back what it got.
export default (payload) => payload;
