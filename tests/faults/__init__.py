"""Faults, injected one by one and all at once: what a client, the document, the bucket and the process show of each.

    painting_worker      `handler.py` with a painter in place of the models, and moments to die at
    world                what the tests look at: the truth behind the proxies, workers in this process or their own
    test_delivered_again cases 1-9, 33, 36, 48        test_leaving           cases 10-17
    test_models          cases 18-21, 40, 41, 45, 46  test_storage_faults    cases 22-29
    test_firestore_faults cases 30-32, 34, 35         test_platform          cases 37, 39, 42, 43
    test_outbox          a result that nobody can take now
    test_endurance       case 47                      marathon               the process it watches
    test_random          all of it at random, then the invariants I1-I7      storm    the plan of such a day

What cannot be shown on a machine without a card, a cloud or RunPod's queue, and where it is shown instead:

    case  what                                             why not here
    13    CANCELLED in RunPod's own queue                  shown against a stand-in for its queue
    16    RunPod's executionTimeout                        only our own watchdog, which has to be there before it
    18    the card's memory is back where it was           no card; the second try at a smaller footprint is the
                                                           models' own (tests/engine)
    19    a real illegal access or ECC error               no card; the painter raises what the models make of it
    20    the kernel kills the main process, PID 1         killed with its group, as a container dies; that Python is
                                                           PID 1 is the Dockerfile's (tests/test_deployment.py)
    38    Google's OAuth endpoint fails in mid-life        emulators take no tokens; the error table is tested in
                                                           tests/test_firebase.py, its effect is cases 26 and 30
    39    FlashBoot itself                                 stopped and continued by signals, connections gone
    44    a webhook or a push message fails                the worker sends none: the app listens to its document
    48    two images of different versions side by side    the document of a newer one is written by hand
"""
