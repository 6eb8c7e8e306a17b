"""Mixed load on a real server for a long time, while its processes are killed: is every request accounted for?"""
