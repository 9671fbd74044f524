"""HTTP as all endpoints speak it: the server, middleware, problem details, the document."""
