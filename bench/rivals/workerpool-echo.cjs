// The same for workerpool, which wants its workers to register.
require('workerpool').worker({ echo: (payload) => payload });
